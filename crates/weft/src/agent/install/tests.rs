//! Files in a directory of the test's own.

use std::{fs, os::unix::fs::PermissionsExt};

use super::*;

fn install(name: &str) -> (PathBuf, Install) {
    let dir = std::env::temp_dir().join(format!("weft-install-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    let install = Install {
        bin_dir: dir.join("bin"),
        conf_dir: dir.join("net.d"),
        conf_name: conf_name(),
        others: Others::Leave,
        plugin: None,
    };
    files::make_dirs(&install).unwrap();
    (dir, install)
}

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn the_plugin_is_replaced_by_a_rename_and_only_where_it_differs() {
    let (dir, install) = install("plugin");
    let (source, place) = (dir.join("source"), install.bin_dir.join(PLUGIN));
    fs::write(&source, "one").unwrap();
    assert!(files::plugin(&install, &source).unwrap().is_some());
    let running = fs::File::open(&place).unwrap();
    assert_eq!(files::plugin(&install, &source).unwrap(), None, "as it should be");
    fs::write(&source, "two").unwrap();
    assert!(files::plugin(&install, &source).unwrap().is_some());
    assert_eq!(std::io::read_to_string(running).unwrap(), "one", "who runs keeps his");
    assert_eq!(fs::read_to_string(&place).unwrap(), "two");
    fs::set_permissions(&place, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(files::plugin(&install, &source).unwrap().is_some(), "it must be executable");
    assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o755);
    // As a writer leaves it that is killed.
    fs::write(install.bin_dir.join("weft-cni.weft-new"), "ha").unwrap();
    fs::remove_file(&place).unwrap();
    assert!(files::plugin(&install, &source).unwrap().is_some());
    assert_eq!(names(&install.bin_dir), [PLUGIN]);
    let error = format!("{:#}", files::plugin(&install, &dir.join("none")).unwrap_err());
    assert!(error.contains("none (install.plugin names another): No such file"), "{error}");
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn others_are_left_or_moved_aside_and_get_their_names_back() {
    let (dir, mut install) = install("others");
    for name in ["00-multus.conf", "10-flannel.conflist", "README", "87-bridge.json"] {
        fs::write(install.conf_dir.join(name), name).unwrap();
    }
    assert!(files::conf(&install, "ours").unwrap().is_some());
    assert_eq!(files::aside(&install).unwrap(), [""; 0]);
    let said = files::before(&install).unwrap().unwrap();
    assert!(said.contains("00-multus.conf comes before 05-weft.conflist"), "{said}");
    install.others = Others::Aside;
    assert_eq!(files::aside(&install).unwrap().len(), 3);
    assert_eq!(files::before(&install).unwrap(), None);
    let aside = [
        "00-multus.conf.before-weft",
        "05-weft.conflist",
        "10-flannel.conflist.before-weft",
        "87-bridge.json.before-weft",
        "README",
    ];
    assert_eq!(names(&install.conf_dir), aside);
    // Installed anew meanwhile: the new one counts.
    fs::write(install.conf_dir.join("10-flannel.conflist"), "new").unwrap();
    assert_eq!(remove(&install).unwrap().len(), 3);
    assert!(is_gone(&install));
    assert_eq!(remove(&install).unwrap(), [""; 0], "a second time there is nothing to do");
    let back = [
        "00-multus.conf",
        "10-flannel.conflist",
        "10-flannel.conflist.before-weft",
        "87-bridge.json",
        "README",
    ];
    assert_eq!(names(&install.conf_dir), back);
    assert_eq!(fs::read_to_string(install.conf_dir.join("10-flannel.conflist")).unwrap(), "new");
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_name_that_no_runtime_would_read_is_refused() {
    let (dir, mut install) = install("name");
    fs::remove_dir_all(dir).unwrap();
    for (name, fine) in
        [("05-weft.conflist", true), ("weft.conf", false), ("../x.conflist", false), ("", false)]
    {
        install.conf_name = name.into();
        assert_eq!(install.check().is_ok(), fine, "{name}");
    }
}

#[test]
fn a_change_in_a_directory_is_heard() {
    let (dir, install) = install("watch");
    let mut watch = Watch::on([&install.bin_dir, &install.conf_dir]).unwrap();
    files::conf(&install, "ours").unwrap();
    watch.wait().unwrap();
    fs::remove_file(install.conf_dir.join(&install.conf_name)).unwrap();
    watch.wait().unwrap();
    fs::remove_dir(&install.bin_dir).unwrap();
    assert!(watch.wait().is_err(), "its directory is another one now");
    fs::remove_dir_all(dir).unwrap();
}
