//! Who reaches what: asked inside a pod, all at once, and again while the cluster may yet follow.

use std::time::{Duration, Instant};

use super::{SETTLE, Site};

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
        let but =
            if odd.is_empty() { String::new() } else { format!("; but for {}", odd.join(" ")) };
        let right = urls.len() - odd.len();
        self.say(
            &format!("{pod} {verb} {whom} ({right} of {}){but}", urls.len()),
            odd.is_empty() && !urls.is_empty(),
        );
    }
}

/// Those for which it is otherwise.
fn others_than(
    wanted: bool,
    site: &Site,
    pod: &str,
    urls: &[String],
) -> anyhow::Result<Vec<String>> {
    let ask = |url: &String| {
        format!("(timeout 3 wget -q -T 2 -O /dev/null '{url}' 2>/dev/null && echo '{url}') &\n")
    };
    let script: String = urls.iter().map(ask).collect::<String>() + "wait";
    let said = site.kubectl.exec(&site.namespace, pod, &script)?;
    let reached = |url: &&String| said.lines().any(|line| line == url.as_str());
    Ok(urls.iter().filter(|url| reached(url) != wanted).cloned().collect())
}
