//! Who reaches what: asked inside a pod, all at once, and again while the cluster may yet follow.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::{SETTLE, Site, objects::PORT};

/// By what the image has.
const GET: &str = "get() { if command -v curl >/dev/null; then curl -gsf -m 3 -o /dev/null \"$1\"; \
     else timeout 3 wget -q -T 2 -O /dev/null \"$1\"; fi; } 2>/dev/null\n";
/// Of what is otherwise than it should be, so many are named.
const NAMED_MAX: usize = 3;

#[derive(Default)]
pub struct Report {
    pub all: usize,
    pub failed: usize,
}

pub fn url(addr: &str, port: u16) -> String {
    if addr.contains(':') {
        format!("http://[{addr}]:{port}/")
    } else {
        format!("http://{addr}:{port}/")
    }
}

impl Report {
    pub fn say(&mut self, what: &str, fine: bool) {
        self.all += 1;
        self.failed += usize::from(!fine);
        println!("{} {what}", if fine { "ok    " } else { "FAILED" });
    }

    /// The pod reaches all of them, or none.
    pub fn reach(
        &mut self,
        site: &Site,
        pod: &str,
        whom: &str,
        urls: &[String],
        wanted: bool,
    ) -> anyhow::Result<()> {
        let odd = others_than(wanted, site, pod, urls)?;
        self.judge(pod, whom, urls, wanted, &odd);
        Ok(())
    }

    /// The same, within the time that nodes may take to hear of a change.
    pub fn settle(
        &mut self,
        site: &Site,
        pod: &str,
        whom: &str,
        urls: &[String],
        wanted: bool,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + SETTLE;
        let mut odd = others_than(wanted, site, pod, urls)?;
        while !odd.is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(300));
            odd = others_than(wanted, site, pod, urls)?;
        }
        self.judge(pod, whom, urls, wanted, &odd);
        Ok(())
    }

    fn judge(&mut self, pod: &str, whom: &str, urls: &[String], wanted: bool, odd: &[String]) {
        let verb = if wanted { "reaches" } else { "does not reach" };
        let named: Vec<&str> = odd.iter().take(NAMED_MAX).map(String::as_str).collect();
        let more = if odd.len() > NAMED_MAX { " …" } else { "" };
        let but = format!("; but for {}{more}", named.join(" "));
        let but = if odd.is_empty() { "" } else { but.as_str() };
        let right = urls.len() - odd.len();
        self.say(
            &format!("{pod} {verb} {whom} ({right} of {}){but}", urls.len()),
            odd.is_empty() && !urls.is_empty(),
        );
    }
}

/// A pod that does not even reach itself by its loopback has no program to ask with.
pub fn works(site: &Site, pod: &str) -> anyhow::Result<()> {
    let itself = url("127.0.0.1", PORT);
    let odd = others_than(true, site, pod, &[itself])?;
    ensure!(
        odd.is_empty(),
        "in pod {pod} neither curl nor wget of image {} works: take another by --image",
        site.image
    );
    Ok(())
}

/// Those for which it is otherwise.
fn others_than(
    wanted: bool,
    site: &Site,
    pod: &str,
    urls: &[String],
) -> anyhow::Result<Vec<String>> {
    let ask = |url: &String| format!("(get '{url}' && echo '{url}') &\n");
    let script: String = GET.to_owned() + &urls.iter().map(ask).collect::<String>() + "wait";
    let said = site.kubectl.exec(&site.namespace, pod, &script)?;
    let reached = |url: &&String| said.lines().any(|line| line == url.as_str());
    Ok(urls.iter().filter(|url| reached(url) != wanted).cloned().collect())
}
