//! Loads of files on file systems that hang.

use std::fs;
use std::sync::Condvar;
use std::time::Duration;

use super::*;
use crate::change::Fact;
use crate::compile::compile;
use crate::feed::Feed;
use crate::reference::Reference;
use crate::source::patience::Hook;

fn tenant(name: &str, authority: &Path) -> String {
    format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec: {{upstreams: {{u: {{endpoints: [192.0.2.1], tls: {{caFile: {}}}}}}}}}\n",
        authority.display()
    )
}

fn read<'a>(found: &'a Inventory, path: &Path) -> Result<&'a NamedFile, &'a String> {
    found.files[path].as_ref()
}

/// Whether a file system answers; it does not at first.
#[derive(Clone, Default)]
struct Answers(Arc<(Mutex<bool>, Condvar)>);

impl Answers {
    fn give(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        drop(self.0.1.wait_while(self.0.0.lock().unwrap(), |answers| !*answers));
    }
}

/// A source whose files below `mount` are on a file system that hangs until it answers.
fn patient(root: &Path, mount: PathBuf, answers: &Answers) -> FileSource {
    let answers = answers.clone();
    let hook = Hook(Arc::new(move |path| {
        if path.starts_with(&mount) {
            answers.wait();
        }
    }));
    let longest = Duration::from_millis(200);
    let patience = Patience { longest, hook: Some(hook), ..Patience::default() };
    let source = FileSource::default().with_files_from(&[root.to_owned()]);
    FileSource { patience, ..source }
}

// S1.33+
#[test]
fn a_file_system_that_hangs_costs_the_files_on_it_and_no_load_of_others() {
    let root = tempfile::tempdir().unwrap();
    let [good, mount] = ["good", "mount"].map(|name| root.path().join(name));
    [&good, &mount].iter().for_each(|path| fs::create_dir(path).unwrap());
    let (hung, sound) = (mount.join("ca.pem"), good.join("ca.pem"));
    [&hung, &sound].iter().for_each(|path| fs::write(path, "one").unwrap());
    fs::write(good.join("a.yaml"), tenant("a", &hung)).unwrap();
    fs::write(good.join("b.yaml"), tenant("b", &sound)).unwrap();
    let answers = Answers::default();
    let source = patient(root.path(), mount, &answers);
    let paths = [good];
    let load = || {
        let (memory, found, turn) = source.load_in_turn(&paths, None).unwrap();
        drop(memory);
        (found, turn)
    };

    let (first, turn) = load();
    assert!(read(&first, &hung).unwrap_err().contains("does not answer"));
    assert!(read(&first, &sound).is_ok());
    assert_eq!(source.health().stuck, std::slice::from_ref(&hung));
    assert_eq!(source.health().succeeded, None);
    assert!(source.is_current(turn.number), "nothing is read again while it hangs");
    fs::write(&sound, "another").unwrap();
    let (second, turn) = load();
    assert_eq!(read(&second, &sound).unwrap().length(), 7, "others are loaded");

    answers.give();
    while !source.patience.stuck.paths().is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!source.is_current(turn.number), "what answers again is read");
    let (third, _) = load();
    assert_eq!(read(&third, &hung).unwrap().length(), 3);
    assert!(source.health().succeeded.is_some() && source.health().stuck.is_empty());
}

// S1.33+
#[test]
fn documents_on_a_file_system_that_hangs_are_served_as_they_were() {
    let root = tempfile::tempdir().unwrap();
    let [good, mount] = ["good", "hung/mount"].map(|name| root.path().join(name));
    let document = |name: &str, address: &str| {
        format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec: {{ingress: [{{address: {address}, port: 80, protocol: HTTP, routes: [{{respond: {{body: x}}}}]}}], egress: {{addresses: [{address}]}}}}\n"
        )
    };
    let write = |path: &Path, text: String| fs::write(path.join("a.yaml"), text).unwrap();
    [&good, &mount].iter().for_each(|path| fs::create_dir_all(path).unwrap());
    write(&good, document("a", "192.0.2.1"));
    write(&mount, document("b", "192.0.2.2"));
    let paths = [good.clone(), mount.clone()];
    let before = compile(&FileSource::default().load(&paths), None, 0);
    assert_eq!(before.snapshot.tenants.len(), 2, "{:?}", before.verdicts);
    let answers = Answers::default();
    let source = patient(root.path(), mount, &answers);
    write(&good, document("a", "192.0.2.3"));

    let after = compile(&source.load(&paths), Some(&before), 0);

    let addresses: Vec<_> = after.snapshot.binds.keys().map(|bind| bind.ip().to_string()).collect();
    assert_eq!(addresses, ["192.0.2.2", "192.0.2.3"]);
    answers.give();
}

#[test]
fn a_load_that_began_before_a_file_was_written_does_not_bring_the_former_one_back() {
    let root = tempfile::tempdir().unwrap();
    let (path, document) = (root.path().join("ca.pem"), root.path().join("a.yaml"));
    fs::write(&path, "old").unwrap();
    fs::write(document, tenant("a", &path)).unwrap();
    let (source, feed, paths) = (FileSource::default(), Feed::default(), [root.path().to_owned()]);
    let content = |store: &Store| match store.fact(&Reference::File(Arc::from(&*path))) {
        Some(Fact::File(file)) => file.bytes().map(|bytes| bytes.to_vec()),
        _ => None,
    };
    let mut store = Store::default();
    source.look(&paths, &feed);
    store.apply(feed.take());
    assert_eq!(content(&store).as_deref(), Some(&b"old"[..]));

    let (memory, found, turn) = source.load_in_turn(&paths, None).unwrap();
    drop(memory);
    fs::write(&path, "new").unwrap();
    source.say_written(&[(&path, Some(b"new"))], &feed);
    feed.say(source.said().news(&found, turn.number));
    store.apply(feed.take());
    assert_eq!(content(&store).as_deref(), Some(&b"new"[..]));
    source.look(&paths, &feed);
    assert!(feed.take().is_empty(), "a later load finds what was said");

    fs::write(&path, "by hand").unwrap();
    source.look(&paths, &feed);
    store.apply(feed.take());
    assert_eq!(content(&store).as_deref(), Some(&b"by hand"[..]), "a later change counts");
    source.say_written(&[(&path, None)], &feed);
    store.apply(feed.take());
    assert_eq!(content(&store), None);
}
