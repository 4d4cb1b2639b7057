//! Rules of this repository that no compiler checks. Each test names what breaks a rule, and where.
//!
//! The published package lacks some of the files that are looked at; the tests are for the repository.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const ENGINE: &str = "vendor/usockets-sys";

/// Longest source file, in lines.
const LINES_MAX: usize = 800;

/// Files that may be longer: two headers, and the declarations of all in their order.
const LONG: [&str; 3] = [
    "vendor/usockets-sys/lib.rs",
    "vendor/usockets-sys/include/libusockets.h",
    "vendor/usockets-sys/include/usockets_ext.h",
];

/// The places below `src` that may contain `unsafe` code. All others are held to their word by
/// `#![forbid(unsafe_code)]`, and by the test here if they forgot to give it.
const UNSAFE: [&str; 5] = ["src/ffi/", "src/ext/", "src/trampoline/", "src/job.rs", "src/shell.rs"];

/// The file, relative to the repository's root.
fn read(path: &str) -> String {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()))
}

/// All files of the repository below `folder` whose extension is one of `extensions`, relative to the
/// root, sorted.
fn files(folder: &str, extensions: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    collect(&root.join(folder), extensions, &mut found);
    let mut names: Vec<String> = found
        .iter()
        .map(|path| path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn collect(folder: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            // What builds leave behind, in whatever folder they are told to use, and hidden folders.
            if !name.starts_with('.') && !["target", "build"].contains(&name.as_str()) {
                collect(&path, extensions, found);
            }
        } else if path.extension().is_some_and(|e| extensions.contains(&&*e.to_string_lossy())) {
            found.push(path);
        }
    }
}

/// All source files of ours.
fn sources() -> Vec<String> {
    ["src", "tests", "examples", "benches", ENGINE]
        .iter()
        .flat_map(|folder| files(folder, &["rs", "c", "h", "cpp", "mk"]))
        .chain(["build.rs".to_owned()])
        .collect()
}

/// Fails with all complaints, if there are any.
#[track_caller]
fn expect_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// A line of Rust up to its comment.
fn without_comment(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Whether `text` contains `word` with no letter, digit or underscore on either side.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(i, _)| !text[..i].ends_with(is_part) && !text[i + word.len()..].starts_with(is_part))
}

#[test]
fn unsafe_code_is_in_its_places_only() {
    let mut complaints = Vec::new();
    for file in files("src", &["rs"]) {
        if UNSAFE.iter().any(|place| file.starts_with(place)) {
            continue;
        }
        for (i, line) in read(&file).lines().enumerate() {
            if has_word(without_comment(line), "unsafe") {
                complaints.push(format!("{file}:{}: unsafe code does not belong here", i + 1));
            }
        }
    }
    expect_none(&complaints);
}

#[test]
fn every_c_file_of_the_engine_is_compiled() {
    // Both builds take every file below `src`, and only those.
    assert!(read("vendor/usockets-sys/build.rs").contains("collect(source, &mut files)"));
    assert!(read("vendor/usockets-sys/Makefile").contains("$(wildcard src/*.c src/*/*.c)"));
    let mut complaints = Vec::new();
    for file in files("vendor", &["c", "cpp"]) {
        let below = |folder: &str| file.strip_prefix(ENGINE)?.strip_prefix(folder);
        let compiled = below("/src/").is_some_and(|rest| rest.matches('/').count() <= 1);
        if !compiled && below("/test/").is_none() {
            complaints.push(format!("{file}: is neither part of the engine nor a test of it"));
        }
    }
    expect_none(&complaints);
}

#[test]
fn markers_of_unfinished_work_name_an_issue() {
    let markers = [concat!("FIX", "ME"), concat!("TO", "DO"), concat!("XX", "X")];
    let mut complaints = Vec::new();
    for file in sources() {
        for (i, line) in read(&file).lines().enumerate() {
            let names_issue =
                line.split('#').skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            if markers.iter().any(|marker| has_word(line, marker)) && !names_issue {
                complaints.push(format!("{file}:{}: name the issue, as #number", i + 1));
            }
        }
    }
    expect_none(&complaints);
}

#[test]
fn no_file_is_too_long() {
    let mut complaints = Vec::new();
    for file in sources() {
        let lines = read(&file).lines().count();
        if lines > LINES_MAX && !LONG.contains(&&*file) {
            complaints.push(format!("{file}: {lines} lines, more than {LINES_MAX}: two subjects?"));
        }
    }
    expect_none(&complaints);
}

/// The names that follow `fn ` in the declarations, which the bindings check holds to the headers.
fn declared_functions() -> BTreeSet<String> {
    read("vendor/usockets-sys/lib.rs")
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub fn "))
        .filter_map(|rest| Some(rest.split_once('(')?.0.to_owned()))
        .collect()
}

/// The lines of bindings.md: function, and whether its box is ticked.
fn listed_functions(complaints: &mut Vec<String>) -> BTreeMap<String, bool> {
    let mut listed = BTreeMap::new();
    for (i, line) in read("bindings.md").lines().enumerate() {
        let (ticked, rest) = match (line.strip_prefix("- [x] `"), line.strip_prefix("- [ ] `")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => continue,
        };
        let Some((name, explanation)) = rest.split_once('`') else { continue };
        if explanation.trim().len() < 4 {
            complaints.push(format!("bindings.md:{}: {name}: say by what, or why not", i + 1));
        }
        if listed.insert(name.to_owned(), ticked).is_some() {
            complaints.push(format!("bindings.md:{}: {name} is listed twice", i + 1));
        }
    }
    listed
}

#[test]
fn bindings_md_lists_every_function_and_tells_the_truth() {
    let mut complaints = Vec::new();
    let listed = listed_functions(&mut complaints);
    let declared = declared_functions();
    assert!(declared.len() > 100, "only {} functions were found in lib.rs", declared.len());
    let mut code = String::new();
    for file in files("src", &["rs"]) {
        for line in read(&file).lines() {
            code.push_str(without_comment(line));
            code.push('\n');
        }
    }
    for name in &declared {
        match listed.get(name) {
            None => complaints.push(format!("bindings.md: {name} is missing")),
            Some(&ticked) if ticked != has_word(&code, name) => complaints.push(format!(
                "bindings.md: {name} is {}ticked, but `src` does {}use it",
                if ticked { "" } else { "not " },
                if ticked { "not " } else { "" },
            )),
            Some(_) => {}
        }
    }
    for name in listed.keys().filter(|&name| !declared.contains(name)) {
        complaints.push(format!("bindings.md: there is no function {name}"));
    }
    expect_none(&complaints);
}

#[test]
fn every_example_is_in_the_readme_and_in_the_gate() {
    let (readme, script) = (read("README.md"), read("scripts/check_examples.sh"));
    let mut complaints = Vec::new();
    let examples = files("examples", &["rs", "c"]);
    assert!(!examples.is_empty(), "there are no examples");
    for example in examples {
        let path = Path::new(&example);
        // An example of several files is a folder with a main.rs, whose name is that of the folder.
        let is_main = path.with_file_name("main.rs") == path;
        let part = !is_main
            && path.parent() != Some(Path::new("examples"))
            && path.extension().is_some_and(|e| e == "rs");
        if part {
            continue;
        }
        let named = if is_main { path.parent().unwrap_or(path) } else { path };
        let stem = named.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let (name, check) = if path.extension().is_some_and(|e| e == "c") {
            (example.clone(), format!("check_c_{stem}()"))
        } else {
            (format!("--example {stem}"), format!("check_{stem}()"))
        };
        if !has_word(&readme, &name) {
            complaints.push(format!("README.md: `{name}` is missing in the table of examples"));
        }
        if !script.contains(&check) {
            complaints.push(format!("scripts/check_examples.sh: {check} is missing"));
        }
    }
    expect_none(&complaints);
}

#[test]
fn every_step_of_the_gate_is_explained() {
    let makefile = read("Makefile");
    let steps = makefile
        .split_once("\nSTEPS :=")
        .and_then(|(_, rest)| rest.split_once("\n\n"))
        .map(|(steps, _)| steps.replace('\\', " "))
        .expect("the Makefile has a list STEPS");
    let contributing = read("CONTRIBUTING.md");
    let mut complaints = Vec::new();
    for step in steps.split_whitespace() {
        if !contributing.contains(&format!("`make {step}`")) {
            complaints.push(format!("CONTRIBUTING.md: `make {step}` is missing"));
        }
    }
    expect_none(&complaints);
}

#[test]
fn invariants_that_comments_cite_exist() {
    let design = read("DESIGN.md");
    let mut complaints = Vec::new();
    for file in files("src", &["rs"]) {
        for (i, line) in read(&file).lines().enumerate() {
            for number in line.split_once("SAFETY:").into_iter().flat_map(|(_, rest)| cited(rest)) {
                if !design.contains(&format!("**I{number} ")) {
                    complaints.push(format!("{file}:{}: DESIGN.md has no I{number}", i + 1));
                }
            }
        }
    }
    expect_none(&complaints);
}

/// The numbers of the invariants that a comment cites: `I3` gives 3.
fn cited(comment: &str) -> Vec<u32> {
    comment
        .split(|c: char| !c.is_alphanumeric())
        .filter_map(|word| word.strip_prefix('I')?.parse().ok())
        .collect()
}
