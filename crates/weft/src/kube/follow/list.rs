//! Lists in pages: each page shows the collection as the first one did.

use std::time::Duration;

use kube::Client;

use super::{
    super::client::{ApiServer, KubeError},
    Collection, Followed, Page, Whole,
    read::{self, Listed},
    request,
};

/// Objects asked for at once when listing, as Kubernetes' own clients do.
const PAGE: usize = 500;
/// A page takes as long as a server needs that thousands ask at once after its restart; whether it is
/// there at all, the first tells.
pub(super) const PAGE_TIME_MAX: Duration = Duration::from_secs(30);
pub(super) const FIRST_PAGE_TIME_MAX: Duration = Duration::from_secs(10);
/// Lists begun anew because the server forgot what the first page showed.
const LISTS_MAX: usize = 3;

/// All objects as they were at one moment, and that moment's revision.
pub async fn list<T: Followed>(
    server: &ApiServer,
    of: &Collection,
) -> Result<(Vec<T>, u64), KubeError> {
    let (mut pages, mut whole) = (Pages::new(server, of), Whole::default());
    loop {
        if let Some(all) = whole.add(pages.next().await?) {
            return Ok(all);
        }
    }
}

/// So many objects at the most, if there are any, and the server's revision: as cheap as a list can be.
pub async fn few<T: Followed>(
    server: &ApiServer,
    of: &Collection,
    most: usize,
) -> Result<(Vec<T>, u64), KubeError> {
    let page = page::<T>(server, of, most, "").await?;
    let revision = page.revision();
    Ok((page.items, revision))
}

/// A list that is being read.
pub(super) struct Pages<'a> {
    server: &'a ApiServer,
    of: &'a Collection,
    /// Where the next begins; nothing: at the beginning.
    token: String,
    lists: usize,
}

impl<'a> Pages<'a> {
    pub(super) fn new(server: &'a ApiServer, of: &'a Collection) -> Self {
        Self { server, of, token: String::new(), lists: 1 }
    }

    /// Not to be asked for another after the last.
    pub(super) async fn next<T: Followed>(&mut self) -> Result<Page<T>, KubeError> {
        loop {
            let first = self.token.is_empty();
            let listed = match page::<T>(self.server, self.of, PAGE, &self.token).await {
                Err(error) if error.is_expired() && self.lists < LISTS_MAX => {
                    self.lists += 1;
                    self.token.clear();
                    continue;
                }
                listed => listed?,
            };
            let revision = listed.revision();
            self.token = listed.metadata.r#continue.unwrap_or_default();
            let last = self.token.is_empty().then_some(revision);
            return Ok(Page { objects: listed.items, first, last });
        }
    }
}

async fn page<T: Followed>(
    server: &ApiServer,
    of: &Collection,
    limit: usize,
    token: &str,
) -> Result<Listed<T>, KubeError> {
    let query = [("limit", limit.to_string()), ("continue", token.to_owned())];
    let list = |client: Client| {
        let request = request(of, &query, "PartialObjectMetadataList");
        async move { client.request_text(request?).await }
    };
    let most = if token.is_empty() { FIRST_PAGE_TIME_MAX } else { PAGE_TIME_MAX };
    let what = format!("list {}", of.path);
    let text = server.ask_within(most, &what, list).await?;
    let (listed, unread) =
        read::page(&text).map_err(|error| server.failed(&what, &kube::Error::SerdeError(error)))?;
    if token.is_empty() {
        server.watches().all_read(of);
    }
    unread.iter().for_each(|unread| server.watches().unread(of, unread));
    Ok(listed)
}
