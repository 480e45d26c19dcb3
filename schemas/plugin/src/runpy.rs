//! Being run by Python. With tracing on, xapi-storage-script executes a method through
//! `python3 -m observer <file> --json`, which calls `runpy.run_path(<file>)`: a program that is no
//! Python fails every call. runpy takes a file that ends in a zip archive with a `__main__.py` for
//! an application (Python's documentation of `runpy` and `zipapp`), whatever comes before it: so the
//! installed programs end in an archive whose only file executes the program itself.
//!
//! The program runs as a child: replacing the Python process with it would drop the spans of the
//! trace, which the observer sends in batches, the last one when Python exits.
//!
//! The format is that of PKWARE's APPNOTE, sections 4.3.7 (local header), 4.3.12 (directory) and
//! 4.3.16 (its end). Offsets count from the start of the archive, which readers find by themselves.

/// The file that Python executes: it runs the program that Python was told to run, with the same
/// arguments and streams, and exits with its status. Works from Python 3.6 on, that of XCP-ng 8.3.
const MAIN: &[u8] = b"import subprocess, sys\nsys.exit(subprocess.call(sys.argv))\n";
const NAME: &[u8] = b"__main__.py";

/// The archive; to be appended to the program, after it was stripped.
pub(crate) fn archive() -> Vec<u8> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a few bytes").to_le_bytes();
    // What both headers have in common: version 2.0, no flags, stored, 1 January 1980, checksum,
    // both sizes, length of the name, no extra field.
    let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
    common.extend(crc32(MAIN).to_le_bytes());
    common.extend(length(MAIN));
    common.extend(length(MAIN));
    common.extend(&length(NAME)[..2]);
    common.extend([0, 0]);

    let mut archive = b"PK\x03\x04".to_vec();
    archive.extend(&common);
    archive.extend([NAME, MAIN].concat());
    let mut directory = b"PK\x01\x02\x14\x00".to_vec();
    directory.extend(&common);
    // No comment, first disk, attributes 0, and the local header at offset 0.
    directory.extend([0; 14]);
    directory.extend(NAME);
    let mut end = b"PK\x05\x06\x00\x00\x00\x00\x01\x00\x01\x00".to_vec();
    end.extend(length(&directory));
    end.extend(length(&archive));
    end.extend([0, 0]);
    archive.extend(directory);
    archive.extend(end);
    archive
}

/// The checksum of APPNOTE 4.4.7: CRC-32 with the reflected polynomial 0xedb88320.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)))
}

#[cfg(test)]
mod tests {
    use super::crc32;

    #[test]
    fn the_checksum_is_the_standard_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
