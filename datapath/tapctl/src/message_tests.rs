//! The layout against numbers that a C compiler gave for the header on x86-64.

use super::*;

#[test]
fn fields_lie_where_the_c_compiler_puts_them() {
    assert_eq!((at::KIND, at::COOKIE, at::BODY, at::PID), (0, 2, 8, 8));
    assert_eq!((at::PARAMS_FLAGS, at::PARAMS_DEVNUM, at::PARAMS_DOMID), (8, 12, 16));
    assert_eq!((at::PARAMS_PATH, at::PARAMS_PARENT), (20, 276));
    assert_eq!((at::PARAMS_TIMEOUT, at::PARAMS_SECONDARY), (280, 282));
    assert_eq!((at::IMAGE_SECTORS, at::IMAGE_SECTOR_SIZE, at::IMAGE_INFO), (8, 16, 20));
    assert_eq!((at::RESPONSE_ERROR, at::RESPONSE_MESSAGE), (8, 12));
    assert_eq!((at::MINORS_COUNT, at::MINORS_LIST), (8, 12));
    assert_eq!((at::LIST_COUNT, at::LIST_MINOR, at::LIST_STATE, at::LIST_PATH), (8, 12, 16, 20));
    assert_eq!(at::STAT_LENGTH, 16);
    assert_eq!((at::BLKIF_DOMID, at::BLKIF_DEVID, at::BLKIF_GREF), (8, 12, 16));
    assert_eq!((at::BLKIF_ORDER, at::BLKIF_PROTO, at::BLKIF_POOL), (48, 52, 56));
    assert_eq!((at::BLKIF_PORT, at::BLKIF_POLL_DURATION, at::BLKIF_POLL_IDLE), (312, 316, 320));
    assert_eq!((at::OWN_PATH, at::OWN_FIRST), (20, 280));
    assert_eq!((at::OWN_RSP_TEXT, at::OWN_RSP_FIRST, at::OWN_RSP_SECOND), (12, 272, 280));
}

#[test]
fn types_are_numbered_as_in_the_enumeration() {
    let numbers = [
        kind::ERROR,
        kind::RUNTIME_ERROR,
        kind::PID,
        kind::PID_RSP,
        kind::ATTACH,
        kind::ATTACH_RSP,
        kind::OPEN,
        kind::OPEN_RSP,
        kind::PAUSE,
        kind::PAUSE_RSP,
        kind::RESUME,
        kind::RESUME_RSP,
        kind::CLOSE,
        kind::CLOSE_RSP,
        kind::DETACH,
        kind::DETACH_RSP,
        kind::LIST_MINORS,
        kind::LIST_MINORS_RSP,
        kind::LIST,
        kind::LIST_RSP,
        kind::STATS,
        kind::STATS_RSP,
        kind::FORCE_SHUTDOWN,
        kind::XENBLKIF_CONNECT,
        kind::XENBLKIF_CONNECT_RSP,
        kind::XENBLKIF_DISCONNECT,
        kind::XENBLKIF_DISCONNECT_RSP,
        kind::DISK_INFO,
        kind::DISK_INFO_RSP,
        kind::EXIT,
    ];
    assert!(numbers.iter().copied().eq(1..=30));
}

#[test]
fn type_and_cookie_come_first() {
    let raw = Raw::new(kind::OPEN, 0x1234);
    assert_eq!(raw.as_bytes()[..2], 7u16.to_ne_bytes());
    assert_eq!(raw.as_bytes()[2..4], 0x1234u16.to_ne_bytes());
    assert!(raw.as_bytes()[4..].iter().all(|&byte| byte == 0));
    assert_eq!((raw.kind(), raw.cookie()), (7, 0x1234));
}

#[test]
fn a_text_needs_room_for_its_nul() {
    let mut raw = Raw::new(kind::OPEN, 0);
    assert!(raw.put_text(at::PARAMS_PATH, &[b'x'; 255]));
    assert_eq!(raw.text(at::PARAMS_PATH).unwrap().len(), 255);
    assert!(!raw.put_text(at::PARAMS_PATH, &[b'x'; 256]));
    assert!(!raw.put_text(at::PARAMS_PATH, b"a\0b"));
    raw.put_u32(at::PARAMS_PATH + 252, u32::from_ne_bytes(*b"xxxx"));
    assert_eq!(raw.text(at::PARAMS_PATH), None);
}

#[test]
fn a_name_too_long_to_be_answered_is_cut() {
    let mut raw = Raw::new(kind::LIST_RSP, 0);
    raw.put_text_cut(at::LIST_PATH, &[b'y'; 300]);
    assert_eq!(raw.text(at::LIST_PATH).unwrap().len(), 255);
}
