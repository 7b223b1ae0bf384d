//! The table of models: what the article says of each, what must not arrive, and the test that shows
//! both. It is read from the tests themselves, above which it stands, so it can't tell of one that is not
//! there; docs/promises.md carries it between two marks.

use std::{fs, path::PathBuf};

use anyhow::{Context, bail};
use clap::Args;

use crate::run::root;

const BEGIN: &str = "<!-- written by `cargo xtask models --write` -->\n";
const END: &str = "<!-- end of it -->\n";
const STORIES: &str = "crates/weft/tests/stories";

#[derive(Args)]
pub struct Models {
    /// Write it into docs/promises.md
    #[arg(long)]
    write: bool,
}

struct Row {
    model: String,
    article: String,
    negative: String,
    test: String,
}

impl Models {
    pub fn run(&self) -> anyhow::Result<()> {
        let table = table()?;
        if !self.write {
            print!("{table}");
            return Ok(());
        }
        let text = fs::read_to_string(page()).context("read docs/promises.md")?;
        Ok(fs::write(page(), replaced(&text, &table)?)?)
    }
}

/// What is wrong with its copy there.
pub fn stale() -> anyhow::Result<Option<String>> {
    let text = fs::read_to_string(page()).context("read docs/promises.md")?;
    let current = replaced(&text, &table()?)? == text;
    let said = "docs/promises.md: the table of models is not what the tests say: `cargo xtask models --write`";
    Ok((!current).then(|| said.into()))
}

fn page() -> PathBuf {
    root().join("docs/promises.md")
}

fn replaced(text: &str, table: &str) -> anyhow::Result<String> {
    let (Some((before, rest)), true) = (text.split_once(BEGIN), text.contains(END)) else {
        bail!("docs/promises.md has no place for the table of models: {BEGIN}{END}")
    };
    let after = rest.split_once(END).map_or("", |(_, after)| after);
    Ok(format!("{before}{BEGIN}{table}{END}{after}"))
}

fn table() -> anyhow::Result<String> {
    let mut rows = Vec::new();
    for entry in fs::read_dir(root().join(STORIES)).context("list the stories")? {
        let path = entry?.path();
        if path.is_dir() {
            // Parts of a story.
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        rows.extend(read(&text).with_context(|| path.display().to_string())?);
    }
    rows.sort_by(|a, b| (&a.model, &a.test).cmp(&(&b.model, &b.test)));
    let head = "| model | what it is said to be | what must not arrive, and when it does | test |\n|---|---|---|---|\n";
    let row = |Row { model, article, negative, test }: Row| {
        format!("| {model} | {article} | {negative} | `{test}` |\n")
    };
    Ok(head.to_owned() + &rows.into_iter().map(row).collect::<String>())
}

/// The tests of one file above which stands what the article says.
fn read(text: &str) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(said) = line.strip_prefix("/// Article: ") else { continue };
        let (model, article) = said.split_once(" | ").context("an article's line lacks ` | `")?;
        let negative = lines.next().and_then(|line| line.strip_prefix("/// Negative: "));
        let negative = negative.with_context(|| format!("{said}: without a negative"))?;
        let mut behind = lines.by_ref().skip_while(|line| !line.starts_with("fn "));
        let test = behind.next().and_then(|line| line.strip_prefix("fn ")?.split('(').next());
        let test = test.with_context(|| format!("{said}: above no test"))?;
        let [model, article, negative, test] =
            [model, article, negative, test].map(ToOwned::to_owned);
        rows.push(Row { model, article, negative, test });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_with_its_test_and_one_without_a_negative_is_refused() {
        let good =
            "/// Article: VLAN | parts\n/// Negative: the other\n#[test]\nfn two_vlans() {\n";
        let rows = read(good).unwrap();
        assert_eq!((rows[0].model.as_str(), rows[0].test.as_str()), ("VLAN", "two_vlans"));
        for bad in ["/// Article: VLAN | parts\n#[test]\nfn a() {\n", "/// Article: VLAN\n"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
