//! `SR.probe`: the SRs in this host's memory, attached or not, each with the configuration that
//! attaches it.

use smapiv3::{
    Error,
    sr::{ConfigurationParams, ProbeResult},
};

use crate::{Context, convert, device_config, methods};

pub(crate) fn run(ctx: &Context<'_>, p: ConfigurationParams) -> Result<Vec<ProbeResult>, Error> {
    let wanted = device_config::for_probe(&p.configuration)?;
    let mut found = methods::host(ctx).srs()?;
    found.retain(|sr| wanted.as_ref().is_none_or(|wanted| sr.stat.uuid == *wanted));
    let probed = found.into_iter().map(|sr| ProbeResult {
        complete: true,
        sr: Some(convert::sr_stat(&sr.stat, &[])),
        extra_info: [("attached".to_owned(), sr.stat.attached.to_string())].into(),
        configuration: device_config::of(sr.attachment),
    });
    Ok(probed.collect())
}
