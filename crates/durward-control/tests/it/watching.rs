//! Watching: every way a configuration is changed by people and by Kubernetes is seen, soon, with and without notifications.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use durward_control::source::watch::{Pace, Watching, watch};
use durward_control::{Fact, Feed, FileSource, Publisher, Reference, Store};
use durward_model::Kind;

use crate::certificates::{self, NOW};

const PATIENCE: Duration = Duration::from_secs(10);

/// Notifications only: polling would hide that they do not work.
const NOTIFIED: Pace = Pace {
    first: Duration::from_millis(5),
    debounce: Duration::from_millis(20),
    longest: Duration::from_millis(200),
    poll: Duration::from_secs(3600),
    notified: true,
};

/// Polling only: notifications would hide that it does not work.
const POLLED: Pace = Pace { poll: Duration::from_millis(50), notified: false, ..NOTIFIED };

struct Seen {
    feed: Arc<Feed>,
    store: Mutex<Store>,
    _watching: Watching,
}

impl Seen {
    fn of(paths: Vec<PathBuf>, pace: Pace) -> Self {
        let anywhere = [PathBuf::from("/")];
        Self::by(&Arc::new(FileSource::default().with_files_from(&anywhere)), paths, pace)
    }

    fn by(source: &Arc<FileSource>, paths: Vec<PathBuf>, pace: Pace) -> Self {
        let feed = Arc::new(Feed::default());
        source.look(&paths, &feed);
        let watching = watch(Arc::clone(source), paths, pace, Arc::clone(&feed)).unwrap();
        // The watches are set once the thread has run its first round; a file it must notice proves nothing before.
        std::thread::sleep(Duration::from_millis(150));
        Self { feed, store: Mutex::default(), _watching: watching }
    }

    /// What has been said by now.
    fn store(&self) -> Store {
        let mut store = self.store.lock().unwrap();
        store.apply(self.feed.take());
        store.clone()
    }

    /// Waits until what was loaded fits.
    fn until(&self, what: &str, fits: impl Fn(&Store) -> bool) -> Duration {
        let start = Instant::now();
        while !fits(&self.store()) {
            assert!(start.elapsed() < PATIENCE, "{what} was never seen: {:?}", self.store());
            std::thread::sleep(Duration::from_millis(5));
        }
        start.elapsed()
    }

    fn until_name(&self, name: &str) {
        self.until(name, |store| names(store) == [name]);
    }
}

fn names(store: &Store) -> Vec<String> {
    let text = store.documents().map(|document| document.source.text.to_string());
    text.map(|text| {
        text.split("name: ").nth(1).unwrap_or("").split('}').next().unwrap_or("").to_owned()
    })
    .collect()
}

fn tenant(name: &str) -> String {
    format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec: {{}}\n"
    )
}

fn everywhere(test: impl Fn(Pace)) {
    for pace in [NOTIFIED, POLLED] {
        test(pace);
    }
}

// S1.20
#[test]
fn an_atomic_symlink_swap_is_seen() {
    everywhere(|pace| {
        let root = tempfile::tempdir().unwrap();
        let mount = root.path().join("mount");
        let put = |version: &str, name: &str| {
            let directory = mount.join(format!("..{version}"));
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("tenant.yaml"), tenant(name)).unwrap();
            symlink(format!("..{version}"), mount.join("..data_tmp")).unwrap();
            fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
        };
        put("1", "one");
        symlink("..data/tenant.yaml", mount.join("tenant.yaml")).unwrap();
        let seen = Seen::of(vec![mount.clone()], pace);
        seen.until_name("one");

        put("2", "two");
        fs::remove_dir_all(mount.join("..1")).unwrap();
        seen.until_name("two");
        put("3", "three");

        seen.until_name("three");
    });
}

// S1.35
#[test]
fn writing_renaming_deleting_and_appearing_are_seen() {
    everywhere(|pace| {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("tenant.yaml");
        let seen = Seen::of(vec![root.path().to_owned()], pace);
        assert!(names(&seen.store()).is_empty());

        fs::write(&file, tenant("written")).unwrap();
        seen.until_name("written");
        fs::write(root.path().join("tenant.yaml.new"), tenant("renamed")).unwrap();
        fs::rename(root.path().join("tenant.yaml.new"), &file).unwrap();
        seen.until_name("renamed");
        fs::remove_file(&file).unwrap();

        seen.until("deletion", Store::is_empty);
    });
}

#[test]
fn a_file_and_a_directory_that_come_later_are_seen() {
    everywhere(|pace| {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("not/yet");
        let file = directory.join("tenant.yaml");
        let seen = Seen::of(vec![file.clone()], pace);
        seen.until("absence", |store| {
            store.documents().map(|one| one.source.kind).eq([Kind::File])
        });

        fs::create_dir_all(&directory).unwrap();
        // The new directories are watched after the first of them is noticed; polling covers the moment between.
        if pace.notified {
            std::thread::sleep(Duration::from_millis(400));
        }
        fs::write(&file, tenant("later")).unwrap();

        seen.until_name("later");
    });
}

#[test]
fn a_certificate_that_is_replaced_is_seen_within_two_seconds() {
    for notified in [true, false] {
        let root = tempfile::tempdir().unwrap();
        let (config, certs) = (root.path().join("config"), root.path().join("elsewhere"));
        certificates::write_into(&certs);
        fs::create_dir(&config).unwrap();
        let text = "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {name: a}\nspec:\n  ingress:\n    - {address: 198.51.100.2, certificate: {file: ../elsewhere/acme}, clientCertificates: {caFile: ../elsewhere/partners.crt, crlFile: ../elsewhere/partners.crl}}\n";
        fs::write(config.join("a.yaml"), text).unwrap();
        let seen = Seen::of(vec![config.clone()], Pace { notified, ..Pace::default() });
        let bytes = |store: &Store, name: &str| {
            let path = config.join("../elsewhere").join(name);
            match store.fact(&Reference::File(Arc::from(path))) {
                Some(Fact::File(file)) => file.bytes().unwrap().to_vec(),
                other => panic!("{name}: {other:?}"),
            }
        };
        let renewals = [
            ("acme.crt", "bank.crt"),
            ("acme.key", "bank.key"),
            ("partners.crt", "partners-next.crt"),
            ("partners.crl", "foreign.crl"),
        ];

        for (name, from) in renewals {
            let expected = fs::read(certs.join(from)).unwrap();
            fs::write(certs.join("next"), &expected).unwrap();
            fs::rename(certs.join("next"), certs.join(name)).unwrap();
            let took = seen.until(name, |store| bytes(store, name) == expected);

            assert!(took < Duration::from_secs(2), "{name} took {took:?}");
        }
    }
}

/// What has not changed for long is only glanced at, and a glance must see everything.
#[test]
fn whatever_changes_after_a_long_silence_is_seen() {
    let root = tempfile::tempdir().unwrap();
    let place = |name: &str| {
        let place = root.path().join(name);
        fs::create_dir(&place).unwrap();
        place
    };
    let (edited, same_size, added, deleted) =
        (place("edited"), place("same-size"), place("added"), place("deleted"));
    let (linked, appearing, reloaded) = (place("linked"), place("appearing"), place("reloaded"));
    for place in [&edited, &same_size, &deleted, &reloaded] {
        fs::write(place.join("a.yaml"), tenant("old")).unwrap();
    }
    for version in ["old", "new"] {
        fs::create_dir(linked.join(format!("..{version}"))).unwrap();
        fs::write(linked.join(format!("..{version}/a.yaml")), tenant(version)).unwrap();
    }
    symlink("..old", linked.join("..data")).unwrap();
    symlink("..data/a.yaml", linked.join("a.yaml")).unwrap();
    let refers = tenant("old").replace(
        "spec: {}",
        "spec: {ingress: [{address: 198.51.100.2, certificate: {file: later}}]}",
    );
    fs::write(appearing.join("a.yaml"), refers).unwrap();
    let watch_alone = |place: &PathBuf| Seen::of(vec![place.clone()], POLLED);
    let all = [&edited, &same_size, &added, &deleted, &linked, &appearing].map(watch_alone);
    let [of_edited, of_same_size, of_added, of_deleted, of_linked, of_appearing] = &all;
    let source = Arc::new(FileSource::default());
    let of_reloaded = Seen::by(&source, vec![reloaded.clone()], POLLED);
    std::thread::sleep(Duration::from_millis(3500));

    fs::write(edited.join("a.yaml"), tenant("new")).unwrap();
    fs::write(same_size.join("b"), tenant("new")).unwrap();
    fs::rename(same_size.join("b"), same_size.join("a.yaml")).unwrap();
    fs::write(added.join("a.yaml"), tenant("new")).unwrap();
    fs::remove_file(deleted.join("a.yaml")).unwrap();
    symlink("..new", linked.join("..tmp")).unwrap();
    fs::rename(linked.join("..tmp"), linked.join("..data")).unwrap();
    fs::write(appearing.join("later.crt"), "a certificate").unwrap();
    // Somebody else reads it first: the watcher must see it all the same.
    fs::write(reloaded.join("a.yaml"), tenant("new")).unwrap();
    source.load(std::slice::from_ref(&reloaded));

    for seen in [of_edited, of_same_size, of_added, of_linked] {
        seen.until_name("new");
    }
    of_deleted.until("deletion", Store::is_empty);
    let later = Reference::File(Arc::from(appearing.join("later.crt")));
    of_appearing
        .until("the certificate", |store| matches!(store.fact(&later), Some(Fact::File(_))));
    of_reloaded.until_name("new");
}

// S1.35
#[test]
fn a_thousand_fast_edits_end_in_the_last() {
    everywhere(|pace| {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("tenant.yaml");
        fs::write(&file, tenant("t")).unwrap();
        let seen = Seen::of(vec![root.path().to_owned()], pace);

        for edit in 0..1000 {
            fs::write(&file, tenant(&format!("t{edit}"))).unwrap();
        }

        seen.until_name("t999");
    });
}

#[test]
fn a_file_that_is_put_in_place_is_loaded_without_waiting_for_more() {
    let root = tempfile::tempdir().unwrap();
    let config = root.path().join("config");
    fs::create_dir(&config).unwrap();
    // Written where nobody looks, so that its new name is the only event.
    let (file, beside) = (config.join("tenant.yaml"), root.path().join("tenant.new"));
    fs::write(&file, tenant("t")).unwrap();
    // Waiting for more would take an hour.
    let hour = Duration::from_secs(3600);
    let seen = Seen::of(vec![config], Pace { debounce: hour, longest: hour, ..NOTIFIED });

    fs::write(&beside, tenant("renamed")).unwrap();
    fs::rename(&beside, &file).unwrap();

    seen.until_name("renamed");
}

#[test]
fn a_file_that_is_written_anew_is_not_taken_for_gone() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("tenant.yaml");
    fs::write(&file, tenant("t")).unwrap();
    let pace = Pace { debounce: Duration::from_secs(3), ..NOTIFIED };
    let pace = Pace { longest: Duration::from_secs(3600), ..pace };
    let seen = Seen::of(vec![root.path().to_owned()], pace);

    // As editors do that keep a backup.
    fs::rename(&file, root.path().join("tenant.yaml~")).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(names(&seen.store()), ["t"]);
    fs::write(&file, tenant("anew")).unwrap();

    seen.until_name("anew");
}

#[test]
fn endless_edits_do_not_starve() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("tenant.yaml");
    fs::write(&file, tenant("t")).unwrap();
    // No pause between edits is ever this long.
    let pace = Pace { first: PATIENCE, debounce: PATIENCE, ..NOTIFIED };
    let seen = Seen::of(vec![root.path().to_owned()], pace);
    seen.store();
    let start = Instant::now();
    let mut edit = 0;

    while seen.feed.is_empty() {
        assert!(start.elapsed() < PATIENCE, "starved by {edit} edits");
        edit += 1;
        fs::write(&file, tenant(&format!("t{edit}"))).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn reading_is_not_a_change() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("tenant.yaml"), tenant("t")).unwrap();
    let seen = Seen::of(vec![root.path().to_owned()], POLLED);
    seen.store();

    for _ in 0..20 {
        fs::read(root.path().join("tenant.yaml")).unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }

    assert!(seen.feed.is_empty());
}

// S1.35 S1.63
#[test]
fn edits_good_and_bad_end_in_the_last_good_one_being_served() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("tenant.yaml");
    let publisher = Publisher::new();
    let body = |last: u8| {
        format!(
            "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: a}}\nspec: {{ingress: [{{address: 198.51.100.{last}, protocol: HTTP, redirectToHttps: true}}]}}\n"
        )
    };
    fs::write(&file, body(1)).unwrap();
    let seen = Seen::of(vec![root.path().to_owned()], NOTIFIED);
    let serve = || publisher.reload(&seen.store(), NOW);
    serve();

    for last in 2..200 {
        fs::write(&file, body(last)).unwrap();
        if last % 3 == 0 {
            fs::write(&file, &body(last)[..60]).unwrap();
        }
        assert_eq!(serve().snapshot.tenants.len(), 1, "edit {last}");
    }
    fs::write(&file, body(200)).unwrap();
    seen.until("the last edit", |store| {
        store.documents().any(|document| document.source.text.contains("100.200"))
    });

    assert!(serve().verdicts.all_accepted());
    assert!(Path::new(&file).exists());
}

/// A write through another name of the file is not told of; it is found by the look at all files, which a busy tenant must not put off.
#[test]
fn whoever_changes_a_file_all_the_time_does_not_keep_others_from_being_looked_at() {
    let root = tempfile::tempdir().unwrap();
    let config = root.path().join("config");
    fs::create_dir(&config).unwrap();
    fs::write(config.join("a.yaml"), tenant("t")).unwrap();
    fs::write(config.join("noise.yaml"), tenant("noise-0")).unwrap();
    fs::hard_link(config.join("a.yaml"), root.path().join("other")).unwrap();
    let seen =
        Seen::of(vec![config.clone()], Pace { poll: Duration::from_millis(300), ..NOTIFIED });
    let noise = |turn: u32| {
        fs::write(root.path().join("new"), tenant(&format!("noise-{turn}"))).unwrap();
        fs::rename(root.path().join("new"), config.join("noise.yaml")).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    };
    (0..50).for_each(noise);

    fs::write(root.path().join("other"), tenant("changed")).unwrap();

    let start = Instant::now();
    let mut turn = 50;
    while !names(&seen.store()).contains(&"changed".to_owned()) {
        assert!(start.elapsed() < PATIENCE, "{:?}", names(&seen.store()));
        noise(turn);
        turn += 1;
    }
}
