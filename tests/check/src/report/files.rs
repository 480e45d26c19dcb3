//! For programs: JSON, and the XML of JUnit that CI systems read.

use serde_json::{Value, json};

use super::{Counts, Line};
use crate::outcome::Verdict;

/// All lines as JSON.
#[must_use]
pub fn json(lines: &[Line]) -> Value {
    let Counts { passed, failed, skipped, blocked } = Counts::of(lines);
    let rules: Vec<Value> = lines.iter().map(rule).collect();
    json!({
        "passed": passed, "failed": failed, "skipped": skipped, "blocked": blocked, "rules": rules,
    })
}

fn rule(line: &Line) -> Value {
    let mut value = json!({
        "id": line.rule.id,
        "title": line.rule.title,
        "reference": line.rule.reference,
        "verdict": match line.verdict {
            Verdict::Pass => "pass",
            Verdict::Fail(_) => "fail",
            Verdict::Skipped(_) => "skipped",
            Verdict::Blocked(_) => "blocked",
        },
    });
    match &line.verdict {
        Verdict::Pass => {}
        Verdict::Skipped(why) => value["reason"] = json!(why),
        Verdict::Blocked(finding) => value["reason"] = json!(finding.to_string()),
        Verdict::Fail(finding) => {
            value["finding"] = json!(finding.what);
            value["exchanges"] = json!(finding.shown);
            value["consequence"] = json!(line.rule.consequence);
        }
    }
    value
}

/// All lines as JUnit's XML: what could not be judged is an error, what does not apply is skipped.
#[must_use]
pub fn junit(lines: &[Line]) -> String {
    let Counts { failed, skipped, blocked, .. } = Counts::of(lines);
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    text.push_str(&format!(
        "<testsuites>\n<testsuite name=\"smapiv3-check\" tests=\"{}\" failures=\"{failed}\" \
         errors=\"{blocked}\" skipped=\"{skipped}\">\n",
        lines.len()
    ));
    for line in lines {
        let group = line.rule.id.split('.').next().unwrap_or_default();
        let name = escaped(&format!("{}: {}", line.rule.id, line.rule.title));
        text.push_str(&format!("<testcase classname=\"smapiv3-check.{group}\" name=\"{name}\""));
        let inside = match &line.verdict {
            Verdict::Pass => {
                text.push_str("/>\n");
                continue;
            }
            Verdict::Skipped(why) => format!("<skipped message=\"{}\"/>", escaped(why)),
            Verdict::Blocked(finding) => element("error", &finding.what, &finding.to_string()),
            Verdict::Fail(finding) => element("failure", &finding.what, &finding.to_string()),
        };
        text.push_str(&format!(">\n{inside}\n</testcase>\n"));
    }
    text.push_str("</testsuite>\n</testsuites>\n");
    text
}

fn element(name: &str, message: &str, text: &str) -> String {
    format!("<{name} message=\"{}\">{}</{name}>", escaped(message), escaped(text))
}

/// XML has no other control characters than these three, however they are written.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(letter),
            _ if letter.is_control() => escaped.push('\u{fffd}'),
            _ => escaped.push(letter),
        }
    }
    escaped
}
