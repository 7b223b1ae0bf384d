//! `weft models`: the pages of docs/models, carried along.

use anyhow::bail;

const PAGES: &[(&str, &str)] = &[
    ("bgp", include_str!("../../../../docs/models/bgp.md")),
    ("dhcp", include_str!("../../../../docs/models/dhcp.md")),
    ("host-gw", include_str!("../../../../docs/models/host-gw.md")),
    ("ipvlan", include_str!("../../../../docs/models/ipvlan.md")),
    ("macvlan", include_str!("../../../../docs/models/macvlan.md")),
    ("vxlan", include_str!("../../../../docs/models/vxlan.md")),
];

/// What is told on another page.
const ALSO: &[(&str, &str)] =
    &[("vxlan-bridged", "vxlan"), ("underlay", "macvlan"), ("vlan", "macvlan")];
/// What needs no page of its own: which to choose says enough.
const CHOICES: &[&str] = &["veth", "bridge", "auto"];
const CHOOSE: &str = include_str!("../../../../docs/choose-a-model.md");

/// One model's page, or what there is.
pub fn page(model: Option<&str>) -> anyhow::Result<String> {
    let first_line =
        |page: &str| page.lines().next().unwrap_or_default().trim_start_matches("# ").to_owned();
    let Some(model) = model else {
        return Ok(PAGES.iter().map(|(_, page)| format!("{}\n", first_line(page))).collect());
    };
    let told = ALSO.iter().find(|(name, _)| *name == model).map_or(model, |(_, page)| page);
    let found = PAGES.iter().find(|(name, _)| *name == told);
    match found {
        Some((_, page)) => Ok((*page).to_owned()),
        None if CHOICES.contains(&model) => Ok(CHOOSE.to_owned()),
        None => {
            let names: Vec<&str> = PAGES.iter().map(|(name, _)| *name).collect();
            bail!("there is no page of a model {model:?}; there are: {}", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_found_by_its_name_and_begins_with_it() {
        for (name, _) in PAGES {
            assert!(page(Some(name)).unwrap().starts_with(&format!("# {name}: ")));
        }
        for (name, page_of) in ALSO {
            assert_eq!(page(Some(name)).unwrap(), page(Some(page_of)).unwrap());
        }
        for name in CHOICES {
            assert!(page(Some(name)).unwrap().contains(&format!("`{name}`")));
        }
        let said = page(Some("macvtap")).unwrap_err().to_string();
        assert!(said.contains("there are: bgp, dhcp, host-gw, ipvlan, macvlan"), "{said}");
    }
}
