//! Daemons that take away routes which they did not write. Told by what they leave in `/run` and
//! by their configuration; the loop heals whatever they take, this names them.

use std::{fs, path::Path};

/// What to say of each that runs below `root` and is not told to leave foreign routes alone.
pub fn find(root: &Path) -> Vec<String> {
    let runs = |state: &str| root.join(state).exists();
    let mut found = Vec::new();
    if runs("run/systemd/netif") && !spares_foreign_routes(root) {
        found.push(
            "systemd-networkd runs here and removes routes that it did not write whenever it \
             starts or a link comes up: set `ManageForeignRoutes=no` and \
             `ManageForeignNextHops=no` below `[Network]` in \
             /etc/systemd/networkd.conf.d/weft.conf and restart it"
                .into(),
        );
    }
    if runs("run/NetworkManager") && !leaves_ours_alone(root) {
        found.push(
            "NetworkManager runs here and may take links of weft for its own: set \
             `unmanaged-devices=interface-name:weft*` below `[keyfile]` in \
             /etc/NetworkManager/conf.d/weft.conf and reload it"
                .into(),
        );
    }
    found
}

/// networkd.conf(5): the last word counts, and `yes` is what stands without one.
fn spares_foreign_routes(root: &Path) -> bool {
    let mut words = ["etc", "run", "usr/lib"]
        .into_iter()
        .flat_map(|top| settings(&root.join(top).join("systemd"), "networkd.conf"))
        .filter_map(|line| Some(line.strip_prefix("ManageForeignRoutes=")?.trim().to_owned()));
    words.any(|word| matches!(word.as_str(), "no" | "false" | "0" | "off"))
}

fn leaves_ours_alone(root: &Path) -> bool {
    let mut lines = ["etc", "run", "usr/lib"].into_iter().flat_map(|top| {
        let dir = root.join(top).join("NetworkManager");
        let drop_ins = drop_ins(&dir.join("conf.d"));
        lines_of(&dir.join("NetworkManager.conf")).into_iter().chain(drop_ins)
    });
    lines.any(|line| line.starts_with("unmanaged-devices=") && line.contains("weft"))
}

/// A file and the drop-ins beside it.
fn settings(dir: &Path, file: &str) -> Vec<String> {
    let beside = drop_ins(&dir.join(format!("{file}.d")));
    lines_of(&dir.join(file)).into_iter().chain(beside).collect()
}

fn drop_ins(dir: &Path) -> Vec<String> {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    files.flat_map(|file| lines_of(&file.path())).collect()
}

fn lines_of(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| line.trim().replace(' ', "")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_named_until_it_is_told_to_leave_us_alone() {
        let root = std::env::temp_dir().join(format!("weft-daemons-{}", std::process::id()));
        let put = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        fs::create_dir_all(&root).unwrap();
        assert_eq!(find(&root), [""; 0]);
        put("run/systemd/netif/state", "");
        put("etc/systemd/networkd.conf", "[Network]\n#ManageForeignRoutes=no\n");
        assert!(find(&root)[0].starts_with("systemd-networkd"));
        put("etc/systemd/networkd.conf.d/weft.conf", "[Network]\nManageForeignRoutes = no\n");
        assert_eq!(find(&root), [""; 0]);
        put("run/NetworkManager/state", "");
        assert!(find(&root)[0].starts_with("NetworkManager"));
        put("etc/NetworkManager/conf.d/x", "[keyfile]\nunmanaged-devices=interface-name:weft*");
        assert_eq!(find(&root), [""; 0]);
        fs::remove_dir_all(root).unwrap();
    }
}
