//! tap-ctl.
