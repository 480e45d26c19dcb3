//! The format of the file: protocol V2 of xcp-rrdd (`plugin-protocol-v2` of xapi-project/xen-api).
//!
//! | bytes | |
//! |---|---|
//! | 11 | `DATASOURCES` |
//! | 4 | checksum of the time stamp and the values |
//! | 4 | checksum of the metadata |
//! | 4 | how many series |
//! | 8 | time stamp: seconds since 1970, a double |
//! | 8 each | values: 64 bits, an integer or a double |
//! | 4 | length of the metadata |
//! | | metadata: JSON, series in the order of the values |
//!
//! Numbers are in network order.

use serde_json::{Map, Value as Json, json};

const MAGIC: &[u8] = b"DATASOURCES";
const DATA_CHECKSUM: usize = 11;
const METADATA_CHECKSUM: usize = 15;
const COUNT: usize = 19;
const TIME: usize = 23;
const VALUES: usize = 31;

/// A series and its value now.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) description: &'static str,
    /// `host`, or `vm <uuid>`.
    pub(crate) owner: String,
    pub(crate) units: &'static str,
    pub(crate) value: Value,
}

/// A value, with what the daemon makes of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    /// A total, of which the daemon takes the growth per second.
    Count(u64),
    /// A total that is no whole number.
    Sum(f64),
    /// A whole number as it is.
    Number(u64),
    /// A number as it is.
    Gauge(f64),
}

impl Value {
    fn bytes(self) -> [u8; 8] {
        match self {
            Self::Count(number) | Self::Number(number) => number.to_be_bytes(),
            Self::Sum(number) | Self::Gauge(number) => number.to_be_bytes(),
        }
    }

    fn types(self) -> [&'static str; 2] {
        match self {
            Self::Count(_) => ["int64", "derive"],
            Self::Sum(_) => ["float", "derive"],
            Self::Number(_) => ["int64", "gauge"],
            Self::Gauge(_) => ["float", "gauge"],
        }
    }
}

/// The whole file.
pub(crate) fn encode(series: &[Series], seconds: f64) -> Vec<u8> {
    let mut data = seconds.to_be_bytes().to_vec();
    series.iter().for_each(|it| data.extend(it.value.bytes()));
    let metadata = metadata(series);
    let count = u32::try_from(series.len()).unwrap_or(u32::MAX);
    let length = u32::try_from(metadata.len()).unwrap_or(u32::MAX);
    let mut bytes = MAGIC.to_vec();
    for number in [crc32(&data), crc32(&metadata), count] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend(data);
    bytes.extend(length.to_be_bytes());
    bytes.extend(metadata);
    bytes
}

fn metadata(series: &[Series]) -> Vec<u8> {
    let mut list = Map::new();
    for it in series {
        let [value_type, kind] = it.value.types();
        list.insert(
            it.name.clone(),
            json!({
                "description": it.description, "owner": it.owner, "value_type": value_type,
                "type": kind, "default": "true", "units": it.units, "min": "0", "max": "inf",
            }),
        );
    }
    json!({ "datasources": list }).to_string().into_bytes()
}

/// The values of a file as whole numbers, with owner and name; nothing where it is not sound: half written by
/// a process that was killed.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<(String, String, f64)>> {
    let number = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    let count = number(COUNT)? as usize;
    let end = VALUES.checked_add(count.checked_mul(8)?)?;
    let data = bytes.get(TIME..end)?;
    let metadata = bytes.get(end + 4..)?.get(..number(end)? as usize)?;
    let sums = [number(DATA_CHECKSUM)?, number(METADATA_CHECKSUM)?];
    if !bytes.starts_with(MAGIC) || sums != [crc32(data), crc32(metadata)] {
        return None;
    }
    let metadata: Json = serde_json::from_slice(metadata).ok()?;
    let list = metadata.get("datasources")?.as_object()?;
    let values = data[8..].as_chunks::<8>().0.iter();
    let decoded = list.iter().zip(values).map(|((name, about), &value)| {
        let text = |key: &str| about[key].as_str().unwrap_or_default().to_owned();
        #[allow(clippy::cast_precision_loss, reason = "totals are far below 2^53 for years")]
        let number = match text("value_type").as_str() {
            "int64" => u64::from_be_bytes(value) as f64,
            _ => f64::from_be_bytes(value),
        };
        (text("owner"), name.clone(), number)
    });
    Some(decoded.collect())
}

/// The checksum of zlib and Ethernet (ISO 3309), a bit at a time: it is for some kilobytes every few seconds.
#[must_use]
pub fn crc32(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(value: Value) -> Series {
        let owner = "host".to_owned();
        Series { name: "x".into(), description: "d", owner, units: "u", value }
    }

    #[test]
    fn the_checksum_is_that_of_zlib() {
        // The check value of its definition.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_not() {
        let bytes = encode(&[one(Value::Count(7))], 1.5);
        assert_eq!(decode(&bytes), Some(vec![("host".into(), "x".into(), 7.0)]));
        assert_eq!(&bytes[23..39], [1.5f64.to_be_bytes(), 7u64.to_be_bytes()].as_flattened());
        let none = encode(&[], 1.5);
        assert_eq!(decode(&none), Some(Vec::new()));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(decode(&damaged), None, "byte {at}");
            assert_eq!(decode(&bytes[..at]), None, "{at} bytes");
        }
    }
}
