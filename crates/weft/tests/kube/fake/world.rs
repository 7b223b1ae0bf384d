//! What the fake server holds: objects, and every change of them in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Map, Value, json};

use super::{patch, serve::status};

/// Where an object is: its collection, and beside that namespace and name.
pub type Place = (String, String, String);

/// One change, as a watch tells it.
#[derive(Clone)]
pub struct Change {
    pub revision: u64,
    /// None: everything up to here was told.
    pub what: Option<(Place, Option<Arc<Value>>, Arc<Value>, bool)>,
}

pub struct World {
    revision: u64,
    objects: BTreeMap<Place, Arc<Value>>,
    changes: Vec<Change>,
    /// Changes up to this revision are forgotten.
    forgotten: u64,
    /// Lists of which more pages may be asked for.
    lists: BTreeMap<u64, (u64, Arc<Vec<Arc<Value>>>)>,
    withdrawn: BTreeSet<String>,
    pub token: Option<String>,
    /// Lists come in pages alone.
    pub pages_only: bool,
    /// Kinds whose changes are told to nobody.
    held: BTreeSet<String>,
}

/// What is answered: the status, and the object or `Status`.
pub type Answer = (u16, Value);

/// One request on one collection.
pub struct Asked<'a> {
    /// Such as `/api/v1/pods`, without namespace and name.
    pub collection: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub subresource: &'a str,
}

impl World {
    pub fn new(revision: u64) -> Self {
        Self {
            revision,
            objects: BTreeMap::new(),
            changes: Vec::new(),
            forgotten: revision,
            lists: BTreeMap::new(),
            withdrawn: BTreeSet::new(),
            token: None,
            pages_only: false,
            held: BTreeSet::new(),
        }
    }

    pub fn revision(&self) -> u64 {
        self.revision
    }
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }
    pub fn expire(&mut self) {
        self.forgotten = self.revision;
        self.lists.clear();
    }
    pub fn restore(&mut self, revision: u64) {
        self.expire();
        self.changes.clear();
        (self.revision, self.forgotten) = (revision, revision);
        for object in self.objects.values_mut() {
            Arc::make_mut(object)["metadata"]["resourceVersion"] = json!(revision.to_string());
        }
    }
    pub fn withdraw(&mut self, collection: &str, withdrawn: bool) {
        if withdrawn {
            self.withdrawn.insert(collection.to_owned());
        } else {
            self.withdrawn.remove(collection);
        }
    }
    pub fn is_withdrawn(&self, collection: &str) -> bool {
        self.withdrawn.contains(collection)
    }
    pub fn hold(&mut self, collection: &str, held: bool) {
        if held {
            self.held.insert(collection.to_owned());
        } else {
            self.held.remove(collection);
        }
    }
    pub fn is_held(&self, collection: &str) -> bool {
        self.held.contains(collection)
    }
    pub fn bookmark(&mut self, revision: u64) {
        self.changes.push(Change { revision, what: None });
    }
    /// Changes after the first `from` of them.
    pub fn changes(&self, from: usize) -> &[Change] {
        &self.changes[from.min(self.changes.len())..]
    }

    pub fn all(&self, path: &str) -> Vec<Arc<Value>> {
        let (collection, namespace) = split(path);
        self.within(&collection, &namespace).collect()
    }

    pub fn within(
        &self,
        collection: &str,
        namespace: &str,
    ) -> impl Iterator<Item = Arc<Value>> + use<> {
        let first = (collection.to_owned(), String::new(), String::new());
        let of = self.objects.range(first..).take_while(|(place, _)| place.0 == collection);
        let of = of.filter(|(place, _)| namespace.is_empty() || place.1 == namespace);
        of.map(|(_, object)| object.clone()).collect::<Vec<_>>().into_iter()
    }

    pub fn get(&self, path: &str, name: &str) -> Option<Arc<Value>> {
        let (collection, namespace) = split(path);
        self.objects.get(&(collection, namespace, name.to_owned())).cloned()
    }

    /// One page: what the list has left is answered by its number and place.
    pub fn list(
        &mut self,
        asked: &Asked<'_>,
        limit: usize,
        token: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Answer {
        let (number, from) = match token.split_once('-') {
            Some((number, from)) => (number.parse().unwrap_or(0), from.parse().unwrap_or(0)),
            None => (0, 0),
        };
        let (revision, objects) = match self.lists.get(&number) {
            Some(list) => list.clone(),
            None if !token.is_empty() => {
                let message = "The provided continue parameter is too old to display a consistent \
                               list result.";
                return (410, status(410, "Expired", message, Value::Null));
            }
            None => {
                let all = self.within(asked.collection, asked.namespace);
                (self.revision, Arc::new(all.filter(|object| wanted(object)).collect()))
            }
        };
        let end = if limit == 0 { objects.len() } else { (from + limit).min(objects.len()) };
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if end < objects.len() {
            let number = if number == 0 { self.lists.len() as u64 + 1 } else { number };
            self.lists.insert(number, (revision, objects.clone()));
            metadata["continue"] = json!(format!("{number}-{end}"));
            metadata["remainingItemCount"] = json!(objects.len() - end);
        }
        let items: Vec<&Value> = objects[from..end].iter().map(|object| &**object).collect();
        let kind = items.first().map_or("", |item| item["kind"].as_str().unwrap_or_default());
        let version =
            items.first().map_or("v1", |item| item["apiVersion"].as_str().unwrap_or("v1"));
        let kind = format!("{kind}List");
        (200, json!({"kind": kind, "apiVersion": version, "items": items, "metadata": metadata}))
    }

    pub fn create(&mut self, asked: &Asked<'_>, mut object: Value) -> Answer {
        let metadata = &mut object["metadata"];
        if metadata["name"].is_null() {
            let stem = metadata["generateName"].as_str().unwrap_or("x-").to_owned();
            metadata["name"] = json!(format!("{stem}{:05}", self.revision));
        }
        let name = metadata["name"].as_str().unwrap_or_default().to_owned();
        let place = place(asked, &name);
        if self.objects.contains_key(&place) {
            let said = format!("{} {name:?} already exists", kind_of(asked.collection));
            return (409, status(409, "AlreadyExists", &said, details(asked, &name)));
        }
        if !place.1.is_empty() {
            object["metadata"]["namespace"] = json!(place.1);
        }
        object["metadata"]["uid"] = json!(format!("uid-{}", self.revision + 1));
        object["metadata"]["creationTimestamp"] = json!("2026-11-26T03:21:19Z");
        object["metadata"]["generation"] = json!(1);
        (201, self.write(place, object))
    }

    /// Put or patch: `work` makes the new object of the old one.
    pub fn update(
        &mut self,
        asked: &Asked<'_>,
        put: bool,
        work: impl FnOnce(&Value) -> Result<Value, String>,
    ) -> Answer {
        let place = place(asked, asked.name);
        let Some(old) = self.objects.get(&place).cloned() else { return missing(asked) };
        let mut new = match work(&old) {
            Ok(new) => new,
            Err(why) => return (422, status(422, "Invalid", &why, details(asked, asked.name))),
        };
        let revision = &new["metadata"]["resourceVersion"];
        if put && revision.is_null() {
            let what = kind_of(asked.collection);
            let said = format!(
                "{what} {:?} is invalid: metadata.resourceVersion: Invalid value: 0: must be specified \
                 for an update",
                asked.name
            );
            return (422, status(422, "Invalid", &said, details(asked, asked.name)));
        }
        if !revision.is_null() && *revision != old["metadata"]["resourceVersion"] {
            let said = format!(
                "Operation cannot be fulfilled on {} {:?}: the object has been modified; please apply \
                 your changes to the latest version and try again",
                kind_of(asked.collection),
                asked.name
            );
            return (409, status(409, "Conflict", &said, details(asked, asked.name)));
        }
        keep(&old, &mut new, asked.subresource);
        if new == *old {
            return (200, new);
        }
        if new["metadata"]["deletionTimestamp"].is_string() && no_finalizers(&new) {
            return (200, (*self.remove(&place)).clone());
        }
        (200, self.write(place, new))
    }

    pub fn delete(&mut self, asked: &Asked<'_>, options: &Value) -> Answer {
        let place = place(asked, asked.name);
        let Some(old) = self.objects.get(&place).cloned() else { return missing(asked) };
        let wanted = &options["preconditions"]["resourceVersion"];
        if !wanted.is_null() && *wanted != old["metadata"]["resourceVersion"] {
            let said = format!(
                "Operation cannot be fulfilled on {} {:?}: the ResourceVersion in the precondition does \
                 not match the ResourceVersion in record",
                kind_of(asked.collection),
                asked.name
            );
            return (409, status(409, "Conflict", &said, details(asked, asked.name)));
        }
        if !no_finalizers(&old) {
            let mut new = (*old).clone();
            new["metadata"]["deletionTimestamp"] = json!("2026-11-26T03:21:20Z");
            return (200, self.write(place, new));
        }
        self.remove(&place);
        let mut details = details(asked, asked.name);
        details["uid"] = old["metadata"]["uid"].clone();
        let done = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": details,
        });
        (200, done)
    }

    pub fn fetch(&self, asked: &Asked<'_>) -> Answer {
        match self.objects.get(&place(asked, asked.name)) {
            Some(object) => (200, (**object).clone()),
            None => missing(asked),
        }
    }

    /// By a test's hand, over whatever stands there.
    pub fn put(&mut self, path: &str, mut object: Value) -> u64 {
        let (collection, mut namespace) = split(path);
        if let Some(of) = object["metadata"]["namespace"].as_str() {
            of.clone_into(&mut namespace);
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let place = (collection, namespace, name);
        if object["metadata"]["uid"].is_null() {
            let uid = self.objects.get(&place).map(|old| old["metadata"]["uid"].clone());
            object["metadata"]["uid"] =
                uid.unwrap_or_else(|| json!(format!("uid-{}", self.revision + 1)));
        }
        self.write(place, object);
        self.revision
    }

    pub fn delete_by_hand(&mut self, path: &str, name: &str) -> u64 {
        let (collection, namespace) = split(path);
        self.remove(&(collection, namespace, name.to_owned()));
        self.revision
    }

    fn write(&mut self, place: Place, mut object: Value) -> Value {
        self.revision += 1;
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = json!(self.revision.to_string());
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.remove("managedFields");
        }
        let object = Arc::new(object);
        let old = self.objects.insert(place.clone(), object.clone());
        self.note(place, old, &object, false);
        (*object).clone()
    }

    fn remove(&mut self, place: &Place) -> Arc<Value> {
        let old = self.objects.remove(place).expect("it is there");
        self.revision += 1;
        let mut last = (*old).clone();
        last["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let last = Arc::new(last);
        self.note(place.clone(), Some(old), &last, true);
        last
    }

    fn note(&mut self, place: Place, old: Option<Arc<Value>>, now: &Arc<Value>, gone: bool) {
        let what = Some((place, old, now.clone(), gone));
        self.changes.push(Change { revision: self.revision, what });
    }
}

fn place(asked: &Asked<'_>, name: &str) -> Place {
    (asked.collection.to_owned(), asked.namespace.to_owned(), name.to_owned())
}

/// What a write does not change, whatever it says.
fn keep(old: &Value, new: &mut Value, subresource: &str) {
    for field in ["uid", "creationTimestamp", "generation", "resourceVersion"] {
        patch::set(&mut new["metadata"], field, &old["metadata"][field]);
    }
    for field in ["apiVersion", "kind"] {
        patch::set(new, field, &old[field]);
    }
    if let Some(metadata) = new["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    if subresource == "status" {
        let status = new["status"].clone();
        let metadata = new["metadata"].clone();
        *new = old.clone();
        (new["status"], new["metadata"]) = (status, metadata);
        return;
    }
    // What has a status has it written by itself.
    patch::set(new, "status", &old["status"]);
    if new["spec"] != old["spec"] {
        let generation = old["metadata"]["generation"].as_u64().unwrap_or(1);
        new["metadata"]["generation"] = json!(generation + 1);
    }
}

fn no_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty)
}

fn missing(asked: &Asked<'_>) -> Answer {
    let said = format!("{} {:?} not found", kind_of(asked.collection), asked.name);
    (404, status(404, "NotFound", &said, details(asked, asked.name)))
}

fn details(asked: &Asked<'_>, name: &str) -> Value {
    let kind = asked.collection.rsplit('/').next().unwrap_or_default();
    let mut details = Map::from_iter([("name".into(), json!(name)), ("kind".into(), json!(kind))]);
    if let Some(group) = group_of(asked.collection) {
        details.insert("group".into(), json!(group));
    }
    details.into()
}

fn group_of(collection: &str) -> Option<&str> {
    collection.strip_prefix("/apis/").and_then(|rest| rest.split('/').next())
}

/// As the server names it: `records.weft.network`.
fn kind_of(collection: &str) -> String {
    let kind = collection.rsplit('/').next().unwrap_or_default();
    match group_of(collection) {
        Some(group) => format!("{kind}.{group}"),
        None => kind.to_owned(),
    }
}

/// The collection of a path, without its namespace, and the namespace.
pub fn split(path: &str) -> (String, String) {
    match path
        .split_once("/namespaces/")
        .and_then(|(group, rest)| Some((group, rest.split_once('/')?)))
    {
        Some((group, (namespace, kind))) => (format!("{group}/{kind}"), namespace.to_owned()),
        None => (path.to_owned(), String::new()),
    }
}
