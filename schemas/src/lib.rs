//! SMAPIv3 types.
