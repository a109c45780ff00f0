//! The reader: what is read again, what is not, and what notifications say.

use super::*;

const KIND: FileKind = FileKind::Document;

fn bytes(reader: &mut Reader, path: &Path) -> Vec<u8> {
    reader.read(path, KIND).unwrap().bytes().unwrap().to_vec()
}

#[test]
fn what_changed_lately_is_read_again_however_old_its_times_have_grown() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.yaml");
    fs::write(&path, "old").unwrap();
    let (mut reader, progress) = (Reader::default(), Arc::default());
    reader.begin(&progress, None);
    assert_eq!(bytes(&mut reader, &path), b"old");
    reader.finish();
    assert!(reader.is_current(&progress), "looked into, it is the same");
    // So lately that no time tells, and seen only when the new time is an old one.
    fs::write(&path, "new").unwrap();
    reader.files.get_mut(&path).unwrap().stamp.settled = false;
    std::thread::sleep(SETTLED + Duration::from_millis(1100));

    assert!(!reader.is_current(&progress));
    reader.begin(&progress, None);
    assert_eq!(bytes(&mut reader, &path), b"new");
    reader.finish();
    assert!(reader.is_current(&progress));
    assert!(reader.files[&path].stamp.settled);
}

#[test]
fn what_cannot_be_read_is_current_until_the_system_says_something_else() {
    let root = tempfile::tempdir().unwrap();
    let (path, folder) = (root.path().join("a.yaml"), root.path().join("b.yaml"));
    let (mut reader, progress) = (Reader::default(), Arc::default());
    let mut round = || {
        reader.begin(&progress, None);
        let read = [&path, &folder].map(|path| reader.read(path, KIND).is_ok());
        reader.finish();
        (read, reader.is_current(&progress))
    };

    assert_eq!(round(), ([false, false], true));
    fs::create_dir(&folder).unwrap();
    fs::write(&path, "there").unwrap();
    let (read, _) = round();
    assert_eq!(read, [true, false]);
    std::thread::sleep(SETTLED + Duration::from_millis(1100));
    assert_eq!(round(), ([true, false], true), "a directory is no file, time and again");
}

#[test]
fn a_released_file_is_known_by_its_digest_and_read_again_when_it_is_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.crt");
    fs::write(&path, "bytes").unwrap();
    let (mut reader, progress) = (Reader::default(), Arc::default());
    reader.begin(&progress, None);
    let first = reader.read(&path, FileKind::Certificate).unwrap();
    reader.finish();

    reader.release(&path);

    assert!(reader.is_current(&progress));
    assert_eq!(reader.files[&path].file.held(), 0);
    reader.begin(&progress, None);
    let again = reader.read(&path, FileKind::Certificate).unwrap();
    assert_eq!(again, first);
    assert_eq!(again.bytes().unwrap().to_vec(), b"bytes");
}

#[test]
fn only_what_has_changed_is_looked_at_unless_it_may_lead_anywhere() {
    let root = tempfile::tempdir().unwrap();
    let real = fs::canonicalize(root.path()).unwrap();
    let at = |name: &str| real.join(name);
    for name in ["a.yaml", "b.yaml", "note.txt"] {
        fs::write(at(name), name).unwrap();
    }
    fs::create_dir(at("certs")).unwrap();
    fs::write(at("certs/c.crt"), "c").unwrap();
    let all = ["a.yaml", "b.yaml", "certs/c.crt"];
    let (mut reader, progress) = (Reader::default(), Arc::default());
    let mut round = |changed: &[&str]| {
        let changed = changed.iter().map(|name| at(name)).collect();
        reader.begin(&progress, Some(&changed));
        let read = all.map(|name| reader.read(&at(name), KIND).is_ok());
        reader.finish();
        assert_eq!(read, [true; 3]);
        (reader.is_narrow(), String::from_utf8(bytes(&mut reader, &at("a.yaml"))).unwrap())
    };
    round(&[]);

    fs::write(at("a.yaml"), "changed").unwrap();
    assert_eq!(round(&["b.yaml"]), (true, "a.yaml".to_owned()), "nobody told of it");
    assert_eq!(round(&["a.yaml"]), (true, "changed".to_owned()));
    fs::write(at("a.yaml"), "again").unwrap();
    assert_eq!(round(&["note.txt", "gone.tmp"]), (true, "changed".to_owned()));
    // A directory, and a link, may be on the way to any file.
    std::os::unix::fs::symlink("certs", at("..data")).unwrap();
    for anywhere in ["certs", "..data"] {
        fs::write(at("a.yaml"), anywhere).unwrap();
        assert_eq!(round(&[anywhere]), (false, anywhere.to_owned()));
    }
    // So may whatever was at a path that a file was behind.
    fs::rename(at("certs"), at("elsewhere")).unwrap();
    assert!(reader.files_at(&[at("certs")].into()).is_none());
    std::os::unix::fs::symlink("elsewhere", at("certs")).unwrap();
    reader.begin(&progress, None);
    reader.read(&at("certs/c.crt"), KIND).unwrap();
    assert!(reader.files_at(&[at("a.yaml")].into()).is_none(), "links are in use");
}

#[test]
fn a_file_with_a_relative_name_is_the_one_that_the_system_tells_of() {
    let root = tempfile::tempdir_in(".").unwrap();
    let name = Path::new(root.path().file_name().unwrap()).join("a.yaml");
    fs::write(&name, "old").unwrap();
    let (mut reader, progress) = (Reader::default(), Arc::default());
    for named in [name.clone(), Path::new(".").join(&name)] {
        reader.begin(&progress, None);
        reader.read(&named, KIND).unwrap();
        reader.finish();
        let told = std::env::current_dir().unwrap().join(&name);

        let only = reader.files_at(&[told].into());

        // Either it is known to be this one, or anything may have changed.
        assert!(only.is_none_or(|only| only.contains(&named)), "{}", named.display());
    }
    let elsewhere = std::env::temp_dir().join("elsewhere").join("a.yaml");
    assert!(reader.files_at(&[elsewhere].into()).is_none());
}
