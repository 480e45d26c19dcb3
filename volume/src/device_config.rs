//! The device-config of a ram SR: its keys, and how SR.create, SR.attach and SR.probe read it.
//!
//! The result of SR.create becomes the PBD's device-config and comes back in every SR.attach, also
//! after a reboot that has emptied the memory: it has all that is needed to make the SR anew. Every
//! problem of a configuration is told at once.

use host::Provider;
use smapiv3::{Error, Failure, StringMap, sr::CreateParams};
use smapiv3_plugin::size;
use store::{Attachment, BLOCK_BYTES, Host, Name, human};

/// The size of an SR that is created without one: small enough for any host that has room at all.
pub(crate) const SIZE_BYTES_DEFAULT: u64 = 1 << 30;

const SIZE: &str = "size";
const TAPDISK: &str = "tapdisk";
const SAVE_DIR: &str = "save-dir";
const SWAP: &str = "swap";
const URI: &str = "uri";
const SR_UUID: &str = "sr_uuid";
const NAME: &str = "name";
const DESCRIPTION: &str = "description";
const HOST: &str = "host";
const SR_MASTER: &str = "SRmaster";

/// Every key that is accepted, with its help text. Keys without one are not shown to people.
pub(crate) const KEYS: &[(&str, &str)] = &[
    (
        SIZE,
        "Bytes that the SR may take of the host's memory, e.g. 16GiB; another value at the next attach \
         changes the size of an SR that is there (default: 1GiB)",
    ),
    (
        TAPDISK,
        "Who serves the disks: ram, or blktap, the host's own tapdisk, which loses what was written \
         if it dies and takes disks of 500 MiB at most (default: ram)",
    ),
    (
        SAVE_DIR,
        "Directory on a disk of the host, as an absolute path: SR.detach saves the SR there, and SR.attach \
         brings it back after a restart of the host (default: nowhere, a restart loses the contents)",
    ),
    (
        SWAP,
        "Whether the kernel may swap the memory of the SR, as to zram: true or false; before Linux 6.4 it may in \
         any case (default: false)",
    ),
    (URI, "Accepted and ignored"),
    (SR_UUID, "UUID of the SR; set by SR.create, needed again only for xe pbd-create"),
    (HOST, "The host whose memory it is; set by SR.create, needed again only for xe pbd-create"),
    (NAME, "Name of the SR should its memory have to be made anew; set by SR.create"),
    (DESCRIPTION, "Description of the SR in that case; set by SR.create"),
    // xapi adds it to every device-config.
    (SR_MASTER, ""),
];

/// The keys for Plugin.query.
pub(crate) fn keys() -> StringMap {
    let listed = KEYS.iter().filter(|(_, about)| !about.is_empty());
    listed.map(|&(name, about)| (name.to_owned(), about.to_owned())).collect()
}

/// The configuration that attaches an SR.
pub(crate) fn of(attachment: Attachment) -> StringMap {
    // The text of a later version is passed on unchanged.
    let provider = match Provider::of_sr(&attachment.provider) {
        Ok(provider) => provider.to_string(),
        Err(_) => attachment.provider,
    };
    let mut configuration: StringMap = [
        (SR_UUID, attachment.uuid.to_string()),
        (NAME, attachment.name),
        (DESCRIPTION, attachment.description),
        (SIZE, attachment.size.to_string()),
        (HOST, attachment.host),
        (TAPDISK, provider),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    if !attachment.save_dir.is_empty() {
        configuration.insert(SAVE_DIR.to_owned(), attachment.save_dir);
    }
    if attachment.swap {
        configuration.insert(SWAP.to_owned(), attachment.swap.to_string());
    }
    configuration
}

/// The SR that SR.create is to make. A configuration that names an SR and a host, such as that of
/// an earlier PBD, has to name those of the call.
pub(crate) fn for_create(params: &CreateParams, host: &Host) -> Result<Attachment, Error> {
    let mut reader = Reader::new("SR.create", &params.configuration);
    let uuid = reader.checked(Name::parse(&params.uuid).map_err(|error| error.to_string()));
    for (key, expected, what) in [
        (SR_UUID, params.uuid.as_str(), "the UUID of the SR that is created"),
        (HOST, host.uuid.as_str(), "this host, whose memory the SR would take"),
    ] {
        if let Some(value) = params.configuration.get(key).filter(|value| *value != expected) {
            reader.wrong(format!("device-config:{key} is {value:?}, but {what} is {expected:?}"));
        }
    }
    let size = reader.optional_size().unwrap_or(SIZE_BYTES_DEFAULT);
    let provider = reader.provider();
    let save_dir = reader.save_dir();
    let swap = reader.swap();
    reader.finish(|| {
        Some(Attachment {
            uuid: uuid?,
            name: params.name.clone(),
            description: params.description.clone(),
            size,
            host: host.uuid.clone(),
            provider: provider?.to_sr(),
            save_dir: save_dir?,
            swap: swap?,
        })
    })
}

/// The SR that SR.attach is to attach.
pub(crate) fn for_attach(configuration: &StringMap) -> Result<Attachment, Error> {
    let mut reader = Reader::new("SR.attach", configuration);
    let uuid = reader.required(SR_UUID).and_then(|value| reader.name(value));
    let size = reader.required(SIZE).and_then(|value| reader.size(value));
    let host = reader.required(HOST);
    let provider = reader.provider();
    let save_dir = reader.save_dir();
    let swap = reader.swap();
    let text = |key| configuration.get(key).cloned().unwrap_or_default();
    reader.finish(|| {
        Some(Attachment {
            uuid: uuid?,
            name: text(NAME),
            description: text(DESCRIPTION),
            size: size?,
            host: host?.to_owned(),
            provider: provider?.to_sr(),
            save_dir: save_dir?,
            swap: swap?,
        })
    })
}

/// What there is to say of an SR of which the configuration names another size.
pub(crate) fn other_size(size: u64, configured: u64) -> String {
    format!(
        "its device-config names {}, which it has again after a restart of the host: to keep {}, make its \
         PBD anew (xe pbd-unplug, pbd-destroy, and pbd-create with device-config:size={size})",
        human(configured),
        human(size)
    )
}

/// The SR that SR.probe is to look for; `None`: any.
pub(crate) fn for_probe(configuration: &StringMap) -> Result<Option<Name>, Error> {
    let mut reader = Reader::new("SR.probe", configuration);
    let wanted = configuration.get(SR_UUID).and_then(|value| reader.name(value));
    reader.optional_size();
    reader.provider();
    reader.save_dir();
    reader.swap();
    reader.finish(|| Some(wanted))
}

/// What helps where the configuration of an SR was written by hand.
const PROBE: &str = "; xe sr-probe-ext type=ram prints the right configuration of each ram SR in this \
                     host's memory, for xe pbd-create";

/// Reads a configuration and remembers all that is wrong with it.
struct Reader<'a> {
    method: &'static str,
    configuration: &'a StringMap,
    missing: Vec<String>,
    wrong: Vec<String>,
}

impl<'a> Reader<'a> {
    fn new(method: &'static str, configuration: &'a StringMap) -> Self {
        let is_known = |key: &str| KEYS.iter().any(|(known, _)| *known == key);
        let unknown = configuration.iter().filter(|(key, _)| !is_known(key));
        let wrong = unknown
            .map(|(key, value)| format!("there is no key device-config:{key} (it is {value:?})"));
        Self { method, configuration, missing: Vec::new(), wrong: wrong.collect() }
    }

    fn wrong(&mut self, problem: String) {
        self.wrong.push(problem);
    }

    fn checked<T>(&mut self, outcome: Result<T, String>) -> Option<T> {
        outcome.map_err(|problem| self.wrong(problem)).ok()
    }

    fn required(&mut self, key: &str) -> Option<&'a str> {
        let value = self.configuration.get(key);
        if value.is_none() {
            self.missing.push(format!("device-config:{key} is missing"));
        }
        value.map(String::as_str)
    }

    fn name(&mut self, value: &str) -> Option<Name> {
        self.checked(
            Name::parse(value).map_err(|error| format!("device-config:{SR_UUID}: {error}")),
        )
    }

    fn optional_size(&mut self) -> Option<u64> {
        self.configuration.get(SIZE).and_then(|value| self.size(value))
    }

    /// Who serves the disks. A configuration from before there was a choice says nothing of it.
    fn provider(&mut self) -> Option<Provider> {
        let Some(value) = self.configuration.get(TAPDISK) else { return Some(Provider::default()) };
        self.checked(value.parse().map_err(|error| format!("device-config:{TAPDISK}: {error}")))
    }

    /// Where the SR is saved; empty: nowhere.
    fn save_dir(&mut self) -> Option<String> {
        let value = self.configuration.get(SAVE_DIR).cloned().unwrap_or_default();
        let is_path =
            value.is_empty() || value.starts_with('/') && !value.contains(char::is_control);
        self.checked(is_path.then_some(value.clone()).ok_or_else(|| {
            format!("device-config:{SAVE_DIR}: {value:?} is no absolute path, such as /var/lib/ram")
        }))
    }

    /// Whether the kernel may swap the SR's memory.
    fn swap(&mut self) -> Option<bool> {
        let Some(value) = self.configuration.get(SWAP) else { return Some(false) };
        self.checked(value.parse().map_err(|_| {
            format!("device-config:{SWAP}: {value:?} is no answer; it is true or false")
        }))
    }

    /// A size in bytes, rounded up to whole blocks.
    fn size(&mut self, value: &str) -> Option<u64> {
        let least = |bytes: u64| match bytes.checked_next_multiple_of(BLOCK_BYTES) {
            Some(bytes) if bytes > 0 => Ok(bytes),
            _ => Err(format!("{value:?} is too small or too large for an SR")),
        };
        self.checked(
            size::parse(value)
                .map_err(|error| error.to_string())
                .and_then(least)
                .map_err(|problem| format!("device-config:{SIZE}: {problem}")),
        )
    }

    fn finish<T>(self, make: impl FnOnce() -> Option<T>) -> Result<T, Error> {
        let failure =
            if self.wrong.is_empty() { Failure::ConfigParamsMissing } else { Failure::InvalidArg };
        let problems = [self.missing, self.wrong].concat();
        match make() {
            Some(made) if problems.is_empty() => Ok(made),
            _ => {
                let known: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
                let (method, problems) = (self.method, problems.join("; "));
                let mut message =
                    format!("{method}: {problems} (the keys are {})", known.join(", "));
                if method == "SR.attach" {
                    message.push_str(PROBE);
                }
                Err(Error::new(failure, message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> StringMap {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn create(pairs: &[(&str, &str)]) -> Result<Attachment, Error> {
        let params = CreateParams {
            dbg: String::new(),
            uuid: "sr-1".into(),
            configuration: config(pairs),
            name: "n".into(),
            description: "d".into(),
        };
        let host = Host {
            sr_root: "/x".into(),
            lock_dir: "/x".into(),
            may_mount: false,
            uuid: "h-1".into(),
        };
        for_create(&params, &host)
    }

    #[test]
    fn what_create_returns_is_what_attach_takes() {
        let made = create(&[("size", "10000"), ("uri", "file:///dev/null")]).unwrap();
        assert_eq!((made.size, made.host.as_str()), (12288, "h-1"));
        let mut attach = of(made.clone());
        attach.extend(config(&[("uri", "x"), ("SRmaster", "true")]));
        assert_eq!(for_attach(&attach).unwrap(), made);
        let again = [("sr_uuid", "sr-1"), ("host", "h-1"), ("name", "old"), ("size", "12288")];
        assert_eq!(create(&again).unwrap(), made, "a PBD's configuration is accepted again");
    }

    #[test]
    fn the_default_size_is_the_documented_one() {
        assert_eq!(create(&[]).unwrap().size, SIZE_BYTES_DEFAULT);
        let documented = &keys()["size"];
        let (_, default) = documented.split_once("default: ").unwrap();
        assert_eq!(size::parse(default.trim_end_matches(')')), Ok(SIZE_BYTES_DEFAULT));
    }

    #[test]
    fn every_problem_is_told_at_once_with_key_and_value() {
        let error = create(&[("siez", "1"), ("path", "/p"), ("size", "lots"), ("host", "h-2")])
            .unwrap_err();
        assert_eq!(error.code(), "SR_BACKEND_FAILURE_1");
        for part in [
            "device-config:siez (it is \"1\")",
            "device-config:path (it is \"/p\")",
            "device-config:size: \"lots\" is not a size",
            "device-config:host is \"h-2\"",
            "\"h-1\"",
            "(the keys are size, tapdisk, save-dir, swap, uri, sr_uuid, host, name, description, SRmaster)",
        ] {
            assert!(error.to_string().contains(part), "{part} is not in {error}");
        }
    }

    #[test]
    fn the_tapdisk_is_one_of_two_and_comes_back_at_attach() {
        let ram = Provider::Ram.to_sr();
        assert_eq!(create(&[]).unwrap().provider, ram);
        let made = create(&[("tapdisk", "blktap")]).unwrap();
        assert_eq!(for_attach(&of(made)).unwrap().provider, Provider::Blktap.to_sr());
        let mut old = of(create(&[]).unwrap());
        old.remove("tapdisk");
        assert_eq!(for_attach(&old).unwrap().provider, ram);
        for wrong in ["qemu", "", "Blktap"] {
            let error = create(&[("tapdisk", wrong)]).unwrap_err();
            assert_eq!(error.code(), "SR_BACKEND_FAILURE_1");
            let says =
                format!("device-config:tapdisk: {wrong:?} is no tapdisk; it is ram or blktap");
            assert!(error.to_string().contains(&says), "{error}");
        }
    }

    #[test]
    fn swap_is_true_or_false_and_comes_back_at_attach() {
        let made = create(&[("swap", "true")]).unwrap();
        assert!(made.swap);
        assert_eq!(for_attach(&of(made.clone())).unwrap(), made);
        for without in [&[][..], &[("swap", "false")]] {
            let made = create(without).unwrap();
            assert!(!made.swap, "{without:?}");
            assert_eq!(for_attach(&of(made.clone())).unwrap(), made);
        }
        for wrong in ["", "yes", "1", "True"] {
            let says = format!("device-config:swap: {wrong:?} is no answer; it is true or false");
            let error = create(&[("swap", wrong)]).unwrap_err();
            assert_eq!(error.code(), "SR_BACKEND_FAILURE_1");
            assert!(error.to_string().contains(&says), "{error}");
            let error = for_probe(&config(&[("swap", wrong)])).unwrap_err();
            assert!(error.to_string().contains(&says), "{error}");
        }
    }

    #[test]
    fn what_is_missing_for_an_attach_is_told_at_once() {
        let error = for_attach(&config(&[("name", "n")])).unwrap_err();
        assert_eq!(error.code(), "SR_BACKEND_FAILURE_115");
        for key in ["sr_uuid", "size", "host"] {
            assert!(error.to_string().contains(&format!("device-config:{key} is missing")));
        }
        let bad = config(&[("sr_uuid", "../x"), ("size", "0"), ("foo", "")]);
        let error = for_attach(&bad).unwrap_err();
        for part in ["\"../x\"", "\"0\" is too small", "device-config:foo", "host is missing"] {
            assert!(error.to_string().contains(part), "{part} is not in {error}");
        }
    }

    #[test]
    fn a_probe_may_name_an_sr_or_nothing() {
        assert_eq!(for_probe(&config(&[])).unwrap(), None);
        let wanted = for_probe(&config(&[("sr_uuid", "sr-1"), ("size", "1GiB")])).unwrap();
        assert_eq!(wanted.unwrap().as_str(), "sr-1");
        for_probe(&config(&[("path", "/p")])).unwrap_err();
    }
}
