//! Text as roff, with the macros of man(7).

/// A text with backticks around literal words, as roff: lines that are no requests, literal words in bold.
#[must_use]
pub fn text(markdown: &str) -> String {
    let mut roff = String::new();
    for (index, part) in markdown.split('`').enumerate() {
        match index % 2 {
            0 => roff.push_str(&escape(part)),
            _ => roff.push_str(&bold(part)),
        }
    }
    if roff.starts_with(['.', '\'']) { format!("\\&{roff}") } else { roff }
}

/// Terms, which are roff already, each with its explanation, in which backticks surround literal words.
#[must_use]
pub fn definitions<'a>(list: impl IntoIterator<Item = (String, &'a str)>) -> String {
    let definition = |(term, about): (String, &str)| format!(".TP\n{term}\n{}\n", text(about));
    list.into_iter().map(definition).collect()
}

/// Environment variables: name, purpose and default of each.
#[must_use]
pub fn variables(list: &[[&str; 3]]) -> String {
    let told = |[name, about, default]: &[&str; 3]| {
        let (name, about, default) = (escape(name), text(&capitalised(about)), text(default));
        format!(".TP\n.B {name}\n{about}.\nDefault: {default}.\n")
    };
    list.iter().map(told).collect()
}

fn capitalised(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

pub(crate) fn escape(plain: &str) -> String {
    plain.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq")
}

pub(crate) fn bold(plain: &str) -> String {
    format!("\\fB{}\\fR", escape(plain))
}

pub(crate) fn italic(plain: &str) -> String {
    format!("\\fI{}\\fR", escape(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_to_roff_is_escaped() {
        assert_eq!(text("use `--sr`, not a\\b"), "use \\fB\\-\\-sr\\fR, not a\\eb");
        assert_eq!(text(".TP of a sentence"), "\\&.TP of a sentence");
        let made = definitions([(bold("X"), "about `x`")]);
        assert_eq!(made, ".TP\n\\fBX\\fR\nabout \\fBx\\fR\n");
        let made = variables(&[["X_Y", "what `it` sets", "`0`"]]);
        assert_eq!(made, ".TP\n.B X_Y\nWhat \\fBit\\fR sets.\nDefault: \\fB0\\fR.\n");
    }
}
