//! How much work one turn may do.

/// Bytes that one turn of a frontend may move before other frontends get theirs: about a millisecond.
const TURN_BYTES: usize = 4 << 20;

/// The work that is left of a turn, counted in bytes moved. Everything else that takes time is charged
/// as the number of bytes that take as long.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    left: usize,
}

impl Budget {
    /// The budget of one turn of a frontend.
    #[must_use]
    pub fn turn() -> Self {
        Self::bytes(TURN_BYTES)
    }

    /// A budget of that many bytes.
    #[must_use]
    pub fn bytes(bytes: usize) -> Self {
        Self { left: bytes }
    }

    /// Charges work; more than is left leaves nothing.
    #[inline]
    pub fn spend(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes);
    }

    /// Whether nothing is left.
    #[inline]
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_once_and_does_not_wrap() {
        let mut budget = Budget::bytes(10);
        budget.spend(9);
        assert!(!budget.is_spent());
        budget.spend(usize::MAX);
        assert!(budget.is_spent());
    }
}
