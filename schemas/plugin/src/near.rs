//! Which of several names a mistyped one was probably meant to be.

/// Edits that a mistyped name may be away from the one that was meant.
const EDITS_MAX: usize = 2;

/// The nearest of the names, if one is near enough to be worth proposing. Case makes no difference.
pub(crate) fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    names
        .map(|candidate| (strsim::levenshtein(&name, &candidate.to_lowercase()), candidate))
        .filter(|(edits, candidate)| *edits <= EDITS_MAX && *edits < candidate.chars().count())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_is_near_and_another_word_is_not() {
        let names = ["Volume.create", "Volume.clone", "SR.create", "k", "v"];
        let near = |name| nearest(name, names.into_iter());
        assert_eq!(near("volume.craete"), Some("Volume.create"));
        assert_eq!(near("Volume.clon"), Some("Volume.clone"));
        assert_eq!(near("Volume.frobnicate"), None);
        assert_eq!(near("x"), None);
    }
}
