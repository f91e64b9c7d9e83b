use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::*;

/// The files of the layer of an image, unpacked; the archive's own bytes as well.
fn unpack(made: &Made) -> (tempfile::TempDir, Vec<u8>) {
    let mut bytes = Vec::new();
    made.write(&mut bytes).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut archive = tar::Archive::new(bytes.as_slice());
    let mut names = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().into_owned();
        if name.ends_with("layer.tar") {
            let mut layer = tar::Archive::new(&mut entry);
            layer.set_preserve_permissions(true);
            layer.unpack(folder.path()).unwrap();
        }
        names.push(name);
    }
    assert_eq!(names.len(), 3, "{names:?}");
    (folder, bytes)
}

fn cc(folder: &Path, out: &str, source: &str, args: &[&str]) -> PathBuf {
    let (code, out) = (folder.join("code.c"), folder.join(out));
    fs::create_dir_all(out.parent().unwrap()).unwrap();
    fs::write(&code, source).unwrap();
    let built = Command::new("cc")
        .arg(&code)
        .arg("-o")
        .arg(&out)
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    out
}

#[test]
fn trialnet_itself_is_cut_and_runs_from_its_folder() {
    let exe = std::env::current_exe().unwrap();
    let Own { made, command } = of_self(&exe).unwrap();
    let (root, _) = unpack(&made);
    let inside = |path: &str| root.path().join(path.trim_start_matches('/'));
    let (whole, cut) = (
        fs::metadata(&exe).unwrap().len(),
        fs::metadata(inside(&made.program)).unwrap().len(),
    );
    assert!(cut < whole, "{cut} of {whole} bytes: a test program has debug sections");
    let command: Vec<PathBuf> = command
        .iter()
        .map(|word| {
            if word.starts_with('/') {
                inside(word)
            } else {
                word.into()
            }
        })
        .collect();
    let listed = Command::new(&command[0])
        .args(&command[1..])
        .args(["--list", "image::tests"])
        .output()
        .unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(
        listed.contains("trialnet_itself_is_cut_and_runs_from_its_folder"),
        "{listed}"
    );
}

#[test]
fn the_same_program_is_the_same_image() {
    let folder = tempfile::tempdir().unwrap();
    let exe = cc(folder.path(), "a/Some_Program--1.0", "int main() { return 7; }", &[]);
    let first = of_program(&exe).unwrap();
    let copy = folder.path().join("b").join(exe.file_name().unwrap());
    fs::create_dir(copy.parent().unwrap()).unwrap();
    fs::copy(&exe, &copy).unwrap();
    let second = of_program(&copy).unwrap();
    assert_eq!(first.tag, second.tag);
    assert_eq!(unpack(&first).1, unpack(&second).1);
    let (name, sum) = first.tag.rsplit_once(':').unwrap();
    assert_eq!(name, "trialnet.local/some_program-1.0");
    assert!(sum.len() == 16 && sum.chars().all(|c| c.is_ascii_hexdigit()), "{sum}");
    let other = cc(folder.path(), "c/Some_Program--1.0", "int main() { return 8; }", &[]);
    assert_ne!(of_program(&other).unwrap().tag, first.tag);
}

#[test]
fn an_image_has_a_user_and_a_folder_for_temporary_files() {
    let folder = tempfile::tempdir().unwrap();
    let made = of_program(&cc(folder.path(), "program", "int main() { return 0; }", &["-static"])).unwrap();
    let (root, _) = unpack(&made);
    assert!(
        fs::read_to_string(root.path().join("etc/passwd"))
            .unwrap()
            .contains(":1000:1000:")
    );
    assert_eq!(
        fs::metadata(root.path().join("tmp")).unwrap().permissions().mode() & 0o7777,
        0o1777
    );
    assert!(
        !root.path().join("lib").exists() && !root.path().join("lib64").exists(),
        "it is static"
    );
    let config: serde_json::Value = serde_json::from_slice(&made.config).unwrap();
    assert_eq!(config["config"]["User"], "1000:1000");
    assert_eq!(
        config["config"]["Entrypoint"],
        serde_json::json!(["/usr/local/bin/program"])
    );
}

/// A program that links `libone`, which links `libtwo`, each in a folder of its own that is named relative to the program or library.
fn linked(folder: &Path, tags: &str, one: &[&str]) -> PathBuf {
    let dtags = format!("-Wl,{tags}");
    cc(
        folder,
        "lib/two/libtwo.so",
        "int two() { return 2; }",
        &["-shared", "-fPIC"],
    );
    let args = [&["-shared", "-fPIC", "-Llib/two", "-ltwo", &dtags], one].concat();
    cc(
        folder,
        "lib/libone.so",
        "int two(); int one() { return 40 + two(); }",
        &args,
    );
    let main = "int one(); int main() { return one(); }";
    let args = [
        "-Llib",
        "-lone",
        "-Wl,-rpath-link,lib/two",
        "-Wl,-rpath,$ORIGIN/../lib:$ORIGIN/../lib/two",
        &dtags,
    ];
    cc(folder, "bin/program", main, &args)
}

#[test]
fn libraries_are_found_where_the_program_says() {
    for (tags, one) in [
        // The library names the folder of the other one itself.
        ("--enable-new-dtags", &["-Wl,-rpath,$ORIGIN/two"][..]),
        // The program names it, for everything that it links.
        ("--disable-new-dtags", &[]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let exe = linked(folder.path(), tags, one);
        let ran = Command::new(&exe).status().unwrap();
        assert_eq!(ran.code(), Some(42), "{tags}: as the loader here finds them");
        let (root, _) = unpack(&of_program(&exe).unwrap());
        assert!(root.path().join("usr/local/bin/program").is_file());
        assert!(root.path().join("usr/local/lib/libone.so").is_file(), "{tags}");
        assert!(root.path().join("usr/local/lib/two/libtwo.so").is_file(), "{tags}");
        let ran = Command::new(root.path().join("usr/local/bin/program"))
            .status()
            .unwrap();
        assert_eq!(ran.code(), Some(42), "{tags}: at the same distance from the program");
    }
}

#[test]
fn a_folder_named_by_the_program_alone_does_not_count_for_its_libraries() {
    let folder = tempfile::tempdir().unwrap();
    let exe = linked(folder.path(), "--enable-new-dtags", &[]);
    let ran = Command::new(&exe).output().unwrap();
    assert!(!ran.status.success(), "the loader here does not find it either");
    let trouble = of_program(&exe).unwrap_err();
    assert_eq!(trouble.code, "infra/image-program");
    assert!(trouble.seen.contains("libtwo.so"), "{}", trouble.seen);
}

#[test]
fn what_is_no_program_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let library = cc(folder.path(), "lib.so", "int f() { return 0; }", &["-shared", "-fPIC"]);
    for (path, words) in [
        (write("script", b"#!/bin/sh\nexit 0\n"), "it is a script (#!/bin/sh)"),
        (write("text", b"hello"), "it is no Linux program"),
        (
            write("macho", &[0xcf, 0xfa, 0xed, 0xfe, 7, 0, 0, 1].repeat(20)),
            "it is no Linux program",
        ),
        (library, "it is a library"),
    ] {
        let trouble = of_program(&path).unwrap_err();
        assert_eq!(trouble.code, "infra/image-program", "{trouble}");
        assert!(trouble.seen.contains(words), "{trouble}");
    }
    for missing in [folder.path().join("gone"), PathBuf::from("no-such-program-anywhere")] {
        assert_eq!(of_program(&missing).unwrap_err().code, "infra/program-missing");
    }
}

#[test]
fn what_a_program_carries_behind_its_sections_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let exe = cc(folder.path(), "program", "int main() { return 0; }", &["-g", "-static"]);
    let length = |path: &Path| elf::open(path).unwrap().part.length;
    let whole = fs::metadata(&exe).unwrap().len();
    assert!(length(&exe) < whole);
    let mut bytes = fs::read(&exe).unwrap();
    bytes.extend(b"an archive that the program reads from its own file");
    fs::write(&exe, &bytes).unwrap();
    assert_eq!(length(&exe), bytes.len() as u64);
    let mut read = Vec::new();
    elf::open(&exe).unwrap().part.read().read_to_end(&mut read).unwrap();
    assert!(read == bytes, "nothing is changed in it");
}

#[test]
fn a_program_that_changes_meanwhile_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let exe = cc(folder.path(), "program", "int main() { return 0; }", &["-static"]);
    let made = of_program(&exe).unwrap();
    let mut bytes = fs::read(&exe).unwrap();
    bytes[5000] ^= 1;
    fs::write(&exe, &bytes).unwrap();
    let error = made.write(std::io::sink()).unwrap_err();
    assert!(error.to_string().contains("changed"), "{error}");
}

#[test]
fn names_are_those_that_references_allow() {
    assert_eq!(image_name("cometbft-0.38.17"), "cometbft-0.38.17");
    assert_eq!(image_name("My Chain_(v2)"), "my-chain_v2");
    assert_eq!(image_name("--"), "program");
    assert_eq!(image_name("éa"), "a");
}
