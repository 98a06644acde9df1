//! Programs that build and keep sources, on a volume with three live peers: git, cargo, make,
//! Python; and what they built runs, also after a remount.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mount_tests::source::make_source_tree;
use mount_tests::tree::read_tree;
use mount_tests::{Command, Trio, is_quick, scenario};

const MINUTES: Duration = Duration::from_secs(60);

fn shell(folder: &Path, script: &str) -> String {
    Command::shell(script)
        .folder(folder)
        .limit(3 * MINUTES)
        .ok()
}

fn git(folder: &Path, args: &[&str]) -> String {
    Command::new("git")
        .args([
            "-c",
            "user.name=T",
            "-c",
            "user.email=t@t",
            "-c",
            "core.checkStat=default",
        ])
        .args(["-c", "advice.detachedHead=false", "-C"])
        .arg(folder)
        .args(args)
        .limit(3 * MINUTES)
        .ok()
}

#[test]
fn git_keeps_a_repository_of_thousands_of_files() {
    scenario("git-many", 10 * MINUTES, |s| {
        let origin = s.path("origin");
        make_source_tree(&origin, if is_quick() { 300 } else { 2000 });
        fs::remove_dir_all(origin.join("odd")).expect("git does not keep what is odd");
        shell(
            &origin,
            "find . -name .git -prune -exec rm -rf {} + ; git init -q -b main .",
        );
        git(&origin, &["add", "-A", "-f"]);
        git(&origin, &["commit", "-q", "-m", "all"]);
        for branch in ["half", "renamed"] {
            git(&origin, &["checkout", "-q", "-b", branch, "main"]);
            let change = match branch {
                "half" => "ls | awk 'NR % 2' | xargs -d '\\n' git rm -q -r",
                _ => "mkdir below && git mv $(ls | grep -v below | head -20) below/",
            };
            shell(&origin, change);
            git(&origin, &["commit", "-q", "-m", branch]);
        }
        git(&origin, &["checkout", "-q", "main"]);
        let expected = git(&origin, &["rev-parse", "main^{tree}"]);

        let mut trio = Trio::start(s);
        let clone = trio.a.path("clone");
        let from = origin.display().to_string();
        git(
            trio.a.mountpoint(),
            &["clone", "-q", "--no-local", &from, "clone"],
        );
        git(&clone, &["fsck", "--full", "--strict"]);
        let clean = |folder: &Path| {
            assert_eq!(git(folder, &["status", "--porcelain"]), "");
            // Nothing that status would have had to read again: the index fits what stat(2) says.
            assert_eq!(git(folder, &["diff-files", "--name-only"]), "");
        };
        for branch in ["half", "renamed", "main"] {
            git(&clone, &["checkout", "-q", branch]);
            clean(&clone);
        }
        // A hard-linked clone within the mount, and a second working tree.
        git(trio.a.mountpoint(), &["clone", "-q", "clone", "linked"]);
        git(&clone, &["worktree", "add", "-q", "../worktree", "half"]);
        clean(&trio.a.path("worktree"));
        fs::write(clone.join("new"), "new\n").expect("written");
        git(&clone, &["add", "new"]);
        git(&clone, &["commit", "-q", "-m", "new"]);
        git(&clone, &["stash", "list"]);
        git(&clone, &["gc", "-q", "--prune=now"]);
        git(&clone, &["repack", "-q", "-a", "-d", "-f"]);
        git(&clone, &["fsck", "--full", "--strict"]);

        trio.a.unmount();
        trio.a.restart();
        // The numbers and times that the index remembers are the same.
        for folder in ["clone", "linked", "worktree"] {
            let folder = trio.a.path(folder);
            assert_eq!(git(&folder, &["diff-files", "--name-only"]), "");
            clean(&folder);
        }
        git(&clone, &["fsck", "--full", "--strict"]);
        git(&clone, &["reset", "-q", "--hard", "origin/main"]);
        assert_eq!(git(&clone, &["rev-parse", "HEAD^{tree}"]), expected);
        shell(
            &clone,
            "git archive HEAD | tar -C .. -xf - --one-top-level=archived",
        );
        shell(
            &clone,
            "git clean -qfdx && git rm -q -r . && git checkout -q HEAD -- . && test -z \"$(git status --porcelain)\"",
        );
    });
}

#[test]
fn cargo_builds_tests_and_finds_nothing_to_do_afterwards() {
    scenario("cargo", 10 * MINUTES, |s| {
        let mut trio = Trio::start(s);
        let root = trio.a.path("crates");
        make_crates(&root);
        let cargo = |args: &str| {
            let script = format!("unset CARGO_TARGET_DIR; cargo {args} 2>&1");
            let command = Command::shell(&script).folder(root.join("app"));
            command
                .env("CARGO_TERM_COLOR", "never")
                .env("RUSTFLAGS", "")
                .limit(3 * MINUTES)
                .ok()
        };
        cargo("build --offline");
        let app = root.join("app/target/debug/app");
        assert_eq!(Command::new(&app).ok(), "made by build.rs: 42\n");
        assert!(cargo("test --offline -q").contains("1 passed"));
        let fresh = |when: &str| {
            let said = cargo("build --offline -v");
            assert!(
                !said.contains("Compiling") && !said.contains("Dirty"),
                "{when}: {said}"
            );
        };
        fresh("at once");
        fs::write(
            root.join("lib/src/lib.rs"),
            "pub fn answer() -> u32 { 43 }\n",
        )
        .expect("written");
        assert!(cargo("build --offline").contains("Compiling lib"));
        assert_eq!(Command::new(&app).ok(), "made by build.rs: 43\n");
        trio.a.unmount();
        trio.a.restart();
        fresh("after a remount");
        assert_eq!(Command::new(&app).ok(), "made by build.rs: 43\n");
        cargo("clean");
        assert!(!root.join("app/target").exists());
    });
}

/// Makes a program with a library, a build script and a test, which need no registry.
fn make_crates(root: &Path) {
    for (path, content) in [
        (
            "lib/Cargo.toml",
            "[package]\nname = \"lib\"\nversion = \"0.1.0\"\nedition = \"2021\"\n",
        ),
        (
            "lib/src/lib.rs",
            "pub fn answer() -> u32 { 42 }\n#[test]\nfn it_is() { assert!(answer() > 41); }\n",
        ),
        (
            "app/Cargo.toml",
            "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[dependencies]\nlib = { path = \"../lib\" }\n",
        ),
        (
            "app/build.rs",
            "fn main() {\n    let out = std::env::var(\"OUT_DIR\").unwrap();\n    \
             std::fs::write(format!(\"{out}/made.rs\"), \"\\\"made by build.rs\\\"\").unwrap();\n    \
             println!(\"cargo:rerun-if-changed=build.rs\");\n}\n",
        ),
        (
            "app/src/main.rs",
            "fn main() { println!(\"{}: {}\", include!(concat!(env!(\"OUT_DIR\"), \"/made.rs\")), lib::answer()); }\n\
             #[test]\nfn it_runs() { main(); }\n",
        ),
    ] {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, content).expect("written");
    }
}

#[test]
fn make_builds_what_is_older_than_its_sources_and_nothing_else() {
    scenario("make", 10 * MINUTES, |s| {
        let mut trio = Trio::start(s);
        let root = trio.a.path("sources");
        fs::create_dir(&root).expect("made");
        for number in 0..20 {
            let text = format!(
                "#include \"common.h\"\nint part{number}(void) {{ return {number} * FACTOR; }}\n"
            );
            fs::write(root.join(format!("part{number}.c")), text).expect("written");
        }
        let parts: Vec<_> = (0..20).map(|number| format!("part{number}")).collect();
        let declared: String = parts
            .iter()
            .map(|part| format!("int {part}(void);\n"))
            .collect();
        let sum: Vec<_> = parts.iter().map(|part| format!("{part}()")).collect();
        fs::write(root.join("common.h"), "#define FACTOR 2\n").expect("written");
        let main = format!(
            "#include <stdio.h>\n{declared}int main(void) {{ printf(\"%d\\n\", {}); return 0; }}\n",
            sum.join(" + ")
        );
        fs::write(root.join("main.c"), main).expect("written");
        fs::write(
            root.join("Makefile"),
            "OBJECTS = $(patsubst %.c,%.o,$(wildcard *.c))\n\
             program: $(OBJECTS) libparts.a\n\tcc -o $@ main.o -L. -lparts\n\
             libparts.a: $(OBJECTS)\n\trm -f $@ && ar rcs $@ $(filter-out main.o,$(OBJECTS))\n\
             part%.o: part%.c common.h\n\tcc -c -o $@ $<\n",
        )
        .expect("written");
        shell(&root, "make -s -j4");
        let program = root.join("program");
        assert_eq!(Command::new(&program).ok(), "380\n");
        assert!(shell(&root, "make").contains("up to date"));
        fs::write(root.join("common.h"), "#define FACTOR 3\n").expect("written");
        let said = shell(&root, "make -j4");
        assert!(
            said.contains("part7.o") && !said.contains("-o main.o"),
            "{said}"
        );
        assert_eq!(Command::new(&program).ok(), "570\n");
        trio.a.unmount();
        trio.a.restart();
        assert!(shell(&root, "make").contains("up to date"));
        assert_eq!(Command::new(&program).ok(), "570\n");
        // The other member runs what this one built.
        let there = trio.b.path("sources/program");
        mount_tests::wait_until("B has the program", MINUTES, || {
            let done = there.exists().then(|| Command::new(&there).run())?;
            (done.stdout_text() == "570\n").then_some(())
        });
    });
}

#[test]
fn a_python_environment_is_made_filled_and_used() {
    scenario("venv", 10 * MINUTES, |s| {
        let mut trio = Trio::start(s);
        let root = trio.a.mountpoint().to_owned();
        let wheel = s.path("hello-1.0-py3-none-any.whl");
        Command::new("python3")
            .args(["-c", MAKE_WHEEL])
            .arg(&wheel)
            .ok();
        let limit = 3 * MINUTES;
        Command::new("python3")
            .args(["-m", "venv", "env"])
            .folder(&root)
            .limit(limit)
            .ok();
        let pip = |args: &[&str]| {
            let pip = Command::new(root.join("env/bin/python")).args([
                "-m",
                "pip",
                "-q",
                "--no-cache-dir",
            ]);
            pip.args(["--disable-pip-version-check"])
                .args(args)
                .limit(limit)
                .ok()
        };
        pip(&["install", "--no-index", &wheel.display().to_string()]);
        let hello = root.join("env/bin/hello");
        assert_eq!(Command::new(&hello).ok(), "hello from a wheel\n");
        assert!(root.join("env/lib").read_dir().expect("it lists").count() > 0);
        pip(&["check"]);
        let before = read_tree(&root.join("env"));
        trio.a.unmount();
        trio.a.restart();
        assert_eq!(Command::new(&hello).ok(), "hello from a wheel\n");
        let python = Command::new(root.join("env/bin/python"));
        let said = python
            .args(["-c", "import sys, hello; print(sys.prefix, hello.__file__)"])
            .ok();
        assert!(said.contains("env/lib"), "{said}");
        let after = read_tree(&root.join("env"));
        let kept = before.iter().all(|(path, facts)| {
            after
                .get(path)
                .is_some_and(|now| now.content == facts.content)
        });
        assert!(kept, "the environment changed over a remount");
        pip(&["uninstall", "-y", "hello"]);
        assert!(!hello.exists());
    });
}

/// Writes a wheel with one module and one command.
const MAKE_WHEEL: &str = "import sys, zipfile
with zipfile.ZipFile(sys.argv[1], 'w') as wheel:
    wheel.writestr('hello.py', 'def main():\\n    print(\"hello from a wheel\")\\n')
    info = 'hello-1.0.dist-info/'
    wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: hello\\nVersion: 1.0\\n')
    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: hand\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr(info + 'entry_points.txt', '[console_scripts]\\nhello = hello:main\\n')
    wheel.writestr(info + 'RECORD', 'hello.py,,\\n')";
