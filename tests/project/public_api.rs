//! The public items of the library are those of the list in `public_api.txt`, so that a change of the
//! interface shows in a commit. With the environment variable `EYOT_UPDATE=1` the test writes the list
//! anew: `EYOT_UPDATE=1 cargo test --test project public_api`.

use std::fs;
use std::path::Path;
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const LIST: &str = "tests/project/public_api.txt";
/// All features that add public items natively.
const FEATURES: &str = "native,oci-spec,test-server,tower";
/// The release whose rustdoc writes the format that this version of the crate `public-api` reads.
const RUST: &str = "1.95";

#[test]
fn the_list_of_public_items_is_up_to_date() {
    let items = public_items();
    let path = Path::new(ROOT).join(LIST);
    if std::env::var_os("EYOT_UPDATE").is_some() {
        fs::write(&path, items).unwrap();
        return;
    }
    let listed = fs::read_to_string(&path).unwrap();
    let missing = |from: &str, other: &str, sign: &str| {
        let lines = other.lines().filter(|line| !from.lines().any(|listed| listed == *line));
        lines.map(|line| format!("{sign} {line}\n")).collect::<String>()
    };
    let changes = missing(&items, &listed, "-") + &missing(&listed, &items, "+");
    assert!(
        listed == items,
        "the public items have changed:\n{changes}\nIf the change is meant, say so in CHANGELOG.md, and run: \
         EYOT_UPDATE=1 cargo test --test project public_api"
    );
}

/// One line for each public item.
fn public_items() -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let mut command = Command::new(cargo);
    command.args(["rustdoc", "--offline", "--lib", "--no-default-features", "--features", FEATURES]);
    command.args(["--", "-Z", "unstable-options", "--output-format", "json", "--cap-lints", "allow"]);
    // Only rustdoc may use unstable options. With the variable set for cargo, build scripts that look at
    // the variable would run again, and all crates that depend on them.
    command.current_dir(ROOT).env("RUSTDOC", Path::new(ROOT).join("tests/project/rustdoc_unstable"));
    let output = command.output().expect("cargo runs");
    assert!(output.status.success(), "cargo rustdoc: {}", String::from_utf8_lossy(&output.stderr));
    let program = std::env::current_exe().expect("the path of this test");
    let target = program.ancestors().nth(3).expect("the folder of all builds");
    let api = public_api::Builder::from_rustdoc_json(target.join("doc/eyot.json"))
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()
        .unwrap_or_else(|error| panic!("this test needs the rustdoc of Rust {RUST}: {error}"));
    api.items().map(|item| format!("{item}\n")).collect()
}
