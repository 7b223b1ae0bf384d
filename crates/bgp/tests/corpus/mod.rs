//! UPDATEs that are wrong in some way, and what is to follow: `updates.txt`; messages of real speakers:
//! `captures.txt`; and the way to read both.
//! Other crates' tests say these to live sessions:
//! `#[path = "../../../bgp/tests/corpus/mod.rs"] mod corpus;`.

/// One message and its answer.
#[derive(Clone, Debug, Default)]
pub struct Case {
    pub name: String,
    /// The session: external, or internal.
    pub external: bool,
    pub four_octet_as: bool,
    pub ipv4_over_ipv6: bool,
    /// The whole message, header and all.
    pub message: Vec<u8>,
    /// What follows, as text. `NOTIFICATION 3/9 …`: the session ends with this; else what is
    /// announced and withdrawn.
    pub answer: String,
    /// What is said of it for people.
    pub notes: Vec<String>,
}

impl Case {
    /// Code and subcode of the NOTIFICATION that ends the session, if it ends.
    #[allow(dead_code, reason = "not all who read the corpus ask this")]
    pub fn ends(&self) -> Option<(u8, u8)> {
        let codes = self.answer.strip_prefix("NOTIFICATION ")?.split(' ').next()?;
        let (code, subcode) = codes.split_once('/')?;
        Some((code.parse().ok()?, subcode.parse().ok()?))
    }
}

/// All that are wrong in some way, or look so.
pub fn cases() -> Vec<Case> {
    all(include_str!("updates.txt"))
}

#[allow(dead_code, reason = "not all who read the corpus want these")]
pub fn captures() -> Vec<Case> {
    all(include_str!("captures.txt"))
}

/// Each is a paragraph of lines `key: value`; lines with `#` are comments.
fn all(text: &str) -> Vec<Case> {
    text.split("\n\n").filter(|part| part.starts_with("name: ")).map(case).collect()
}

fn case(paragraph: &str) -> Case {
    let mut case = Case::default();
    for line in paragraph.lines().filter(|line| !line.starts_with('#')) {
        let (key, value) = line.split_once(": ").unwrap();
        match key {
            "name" => value.clone_into(&mut case.name),
            "from" => {
                case.external = value.contains("external");
                case.four_octet_as = value.contains("4-octet");
                case.ipv4_over_ipv6 = value.contains("ipv4-over-ipv6");
            }
            "body" => case.message = whole(&bytes(value)),
            "message" => case.message = [vec![0xff; 16], bytes(value)].concat(),
            "answer" => value.clone_into(&mut case.answer),
            "note" => case.notes.push(value.to_owned()),
            other => panic!("{other} is no key"),
        }
    }
    case
}

/// With the header of an UPDATE.
fn whole(body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len() + 19).unwrap();
    [&[0xff; 16], length.to_be_bytes().as_slice(), &[2], body].concat()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}
