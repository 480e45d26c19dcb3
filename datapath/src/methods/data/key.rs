//! The key of an operation: `<sr>/<volume>/<operation>`, as the calls about one bring nothing else.

use smapiv3::{Error, Failure, data::Operation};
use store::{Name, VolumeUri};

/// An operation on a volume.
pub(super) struct Key {
    pub(super) uri: VolumeUri,
    pub(super) operation: String,
}

impl Key {
    pub(super) fn parse(operation: &Operation) -> Result<Self, Error> {
        let (Operation::MirrorV1(text) | Operation::CopyV1(text)) = operation;
        let unknown = || {
            let message = format!(
                "{text:?} is no operation of this datapath: expected <sr>/<volume>/<operation>, as \
                 Data.mirror and Data.ls print it"
            );
            Error::new(Failure::VdiMissing, message)
        };
        let mut parts = text.split('/');
        let parts = [parts.next(), parts.next(), parts.next(), parts.next()];
        let [Some(sr), Some(key), Some(operation), None] = parts else { return Err(unknown()) };
        let name = |text| Name::parse(text).map_err(|_| unknown());
        let uri = VolumeUri { sr: name(sr)?, key: name(key)? };
        Ok(Self { uri, operation: operation.to_owned() })
    }

    pub(super) fn copy(uri: &VolumeUri, operation: &str) -> Operation {
        Operation::CopyV1(format!("{}/{}/{operation}", uri.sr, uri.key))
    }

    pub(super) fn mirror(uri: &VolumeUri, operation: &str) -> Operation {
        Operation::MirrorV1(format!("{}/{}/{operation}", uri.sr, uri.key))
    }
}
