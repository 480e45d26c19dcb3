//! Activations that no client uses, and that end because they are in the way.
//!
//! xapi leaves some behind that nothing in it ends: that of a migration's destination (`MIR...`) where
//! the machine was halted, those of copies (`CP...`), and a plug into dom0 whose nbd-client failed.
//!
//! | activation | makes way for another domain's | makes way for destroy, revert, SR.detach |
//! |---|---|---|
//! | of `MIR*`, `CP*` | at once, if it is no such domain | after [`host::Config::unused`] |
//! | read-only | after that time, if the two exclude each other | after that time |
//! | read-write | never | never |
//!
//! A client is whatever is connected to the tapdisk: the tapdisk says how many there are, and for how long
//! there has been none. All domains of a volume share a tapdisk, so no activation is unused while
//! another one has a client. The host's own tapdisk does not say it, and counts as used.
//!
//! An activation ends with all that its deactivate and detach would have done. When these come later, they
//! find nothing to do.

use std::time::Duration;

use smapiv3::Error;

use crate::{
    state::{Hold, Mode},
    vdi::Vdi,
};

/// The beginnings of the domains that xapi makes up for one migration or copy
/// (`storage_smapiv3_migrate.ml`, `storage_smapiv1_migrate.ml`).
const TEMPORARY: [&str; 2] = ["MIR", "CP"];

/// What an activation is in the way of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Claim<'a> {
    /// The activation of a domain.
    Activation(&'a str, Mode),
    /// The begin or the end of a virtual machine's use of the volume.
    Session,
    /// A change of the volume or the SR during which no process may use the volume.
    Change,
}

/// How long an activation has to be unused before it makes way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notice {
    None,
    Long,
}

impl Claim<'_> {
    /// How soon the activation of a domain makes way; `None`: never.
    fn notice(self, domain: &str, held: Mode) -> Option<Notice> {
        let is_long = is_temporary(domain) || held == Mode::ReadOnly;
        match self {
            Self::Activation(claimant, _) if claimant == domain => None,
            Self::Activation(claimant, mode) => {
                let at_once = is_temporary(domain) && !is_temporary(claimant);
                let after_long = (is_long && mode != held).then_some(Notice::Long);
                if at_once { Some(Notice::None) } else { after_long }
            }
            Self::Session if is_temporary(domain) => Some(Notice::None),
            Self::Session | Self::Change => is_long.then_some(Notice::Long),
        }
    }
}

/// Whether xapi made up a domain for a migration or a copy.
fn is_temporary(domain: &str) -> bool {
    TEMPORARY.iter().any(|start| domain.starts_with(start))
}

impl Vdi<'_> {
    /// Ends the activations that no client uses and that make way for `claim`.
    pub(crate) fn end_unused(&mut self, claim: Claim<'_>) -> Result<(), Error> {
        self.end_unused_mirrors()?;
        let making_way: Vec<(String, Notice)> = self
            .active()
            .filter_map(|(domain, mode)| Some((domain.to_owned(), claim.notice(domain, mode)?)))
            .collect();
        if making_way.is_empty() {
            return Ok(());
        }
        let Some(unused_for) = self.unused_for() else { return Ok(()) };
        let is_long = unused_for >= self.ctx.config.unused;
        let mut ended = making_way;
        ended.retain(|(_, notice)| is_long || *notice == Notice::None);
        for (domain, _) in &ended {
            self.state.domains.remove(domain);
            self.ctx.log.info(format_args!(
                "ending the activation of volume {} for domain {domain:?}, which has had no client \
                 for {} s",
                self.uri.key,
                unused_for.as_secs()
            ));
        }
        if ended.is_empty() {
            return Ok(());
        }
        if self.state.domains.is_empty() && !matches!(claim, Claim::Activation(..)) {
            self.stop()?;
        } else if self.state.mode().is_none() {
            self.close_image()?;
        }
        self.save()
    }

    /// The domains that have activated the volume, and in which way.
    pub(crate) fn active(&self) -> impl Iterator<Item = (&str, Mode)> {
        let mode = |hold: &Hold| hold.mode();
        self.state.domains.iter().filter_map(move |(name, hold)| Some((name.as_str(), mode(hold)?)))
    }

    /// For how long the volume has had no client; `None` where it has one, or that is not known. A tapdisk
    /// that is dead has none, and it is not known for how long.
    pub(crate) fn unused_for(&self) -> Option<Duration> {
        let Some(running) = self.running() else { return Some(Duration::ZERO) };
        match running.client.clients(running.minor) {
            Ok(clients) => (clients.count == 0).then_some(clients.unused_for),
            Err(error) if matches!(error.kind(), tapctl::ErrorKind::Remote(_)) => None,
            Err(error) => {
                self.ctx.log.warning(error);
                None
            }
        }
    }

    /// The command that ends an activation by hand.
    pub(crate) fn ending_command(&self, domain: &str) -> String {
        let program = self.ctx.config.datapath_plugin();
        let quoted = format!("'{}'", domain.replace('\'', r"'\''"));
        format!("{} Datapath.detach --uri {} --domain {quoted}", program.display(), self.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOM0: &str = "u0_vbd_0_x_xvda";

    /// The whole table: which activation makes way for which use, and how soon.
    #[test]
    fn migrations_and_readers_make_way_and_writers_do_not() {
        use Mode::{ReadOnly, ReadWrite};
        let by = |claimant, mode| Claim::Activation(claimant, mode);
        let (now, later) = (Some(Notice::None), Some(Notice::Long));
        for (domain, held, claim, notice) in [
            ("MIR0a1b2c", ReadWrite, by("5", ReadWrite), now),
            ("MIR0a1b2c", ReadWrite, by("5", ReadOnly), now),
            ("MIR0a1b2c", ReadWrite, by("MIR0a1b2c", ReadOnly), None),
            ("MIR0a1b2c", ReadWrite, by("CP000000", ReadWrite), None),
            ("CP000000", ReadOnly, by("MIR0a1b2c", ReadWrite), later),
            ("CP000000-dst", ReadOnly, by(DOM0, ReadOnly), now),
            (DOM0, ReadOnly, by("5", ReadWrite), later),
            (DOM0, ReadOnly, by("5", ReadOnly), None),
            (DOM0, ReadWrite, by("5", ReadOnly), None),
            ("5", ReadWrite, by("MIR0a1b2c", ReadOnly), None),
            ("MIR0a1b2c", ReadWrite, Claim::Session, now),
            (DOM0, ReadOnly, Claim::Session, later),
            (DOM0, ReadWrite, Claim::Session, None),
            ("MIR0a1b2c", ReadWrite, Claim::Change, later),
            (DOM0, ReadOnly, Claim::Change, later),
            ("5", ReadWrite, Claim::Change, None),
        ] {
            assert_eq!(claim.notice(domain, held), notice, "{domain} {held} {claim:?}");
        }
    }
}
