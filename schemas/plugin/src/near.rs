//! Which of several names somebody may have meant who mistyped one.

/// Edits that a mistyped name may be away from the one that was meant.
const EDITS_MAX: usize = 2;

/// The nearest of the names, if one is near enough to be worth proposing.
pub(crate) fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|candidate| (edits(name, candidate), candidate))
        .filter(|(edits, candidate)| *edits <= EDITS_MAX && *edits < candidate.chars().count())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance, without regard to case.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
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
        assert_eq!((edits("", "ab"), edits("abc", "abc")), (2, 0));
    }
}
