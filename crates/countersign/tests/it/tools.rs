//! Outside tools: programs that nobody here wrote, and that tests ask for a second opinion.
//!
//! Owns where they are found and what happens when one is missing: on a developer's machine the test says that it was
//! skipped, in CI it fails. `./test` installs them.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository is there")
}

/// Where `tool` is: among those that `./test` installed, on the path, or where Debian puts daemons.
///
/// Without it the test is skipped, aloud. In CI nothing is skipped.
pub fn find(test: &str, tool: &str) -> Option<PathBuf> {
    let own = root().join("target/tools");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = [own.join("node_modules/.bin"), own.join("venv/bin"), "/usr/sbin".into(), "/usr/lib/postfix/sbin".into()];
    let found = places.into_iter().chain(std::env::split_paths(&path)).map(|it| it.join(tool)).find(|it| it.is_file());
    if found.is_none() {
        missing(test, &format!("{tool} is not installed (run ./test)"));
    }
    found
}

/// Where Node finds `packages`, which have no program of their own.
pub fn node_modules(test: &str, packages: &[&str]) -> Option<PathBuf> {
    let modules = root().join("target/tools/node_modules");
    let lacking = packages.iter().find(|it| !modules.join(it).join("package.json").is_file());
    if let Some(package) = lacking {
        missing(test, &format!("{package} is not installed (run ./test)"));
        return None;
    }
    Some(modules)
}

/// The file of a vendor's published interface, which is not part of the repository.
pub fn spec(test: &str, name: &str) -> Option<PathBuf> {
    let file = root().join("../shared/specs").join(name);
    if file.is_file() {
        return Some(file);
    }
    missing(test, &format!("../shared/specs/{name} is not there"));
    None
}

/// Says that a test cannot run here.
///
/// # Panics
/// In CI.
pub fn missing(test: &str, why: &str) {
    println!("SKIPPED {test}: {why}");
    // `./test` tells all of them at the end, where somebody sees them. Without its folder nobody will look.
    let list = fs::OpenOptions::new().append(true).create(true).open(root().join("target/tools/skipped"));
    let _ = list.and_then(|mut list| writeln!(list, "{test}: {why}"));
    assert!(std::env::var_os("CI").is_none(), "{test} must not be skipped in CI: {why}");
}

/// A port of loopback that nobody used a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port").port()
}

/// Whether somebody listens on `port` before `within` is over.
pub fn listens(port: u16, within: Duration) -> bool {
    until(within, || TcpStream::connect(("127.0.0.1", port)).ok()).is_some()
}

/// Asks again and again until there is something, or `within` is over.
pub fn until<T>(within: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + within;
    loop {
        if let Some(it) = ask() {
            return Some(it);
        }
        if Instant::now() > end {
            return None;
        }
        #[expect(clippy::disallowed_methods, reason = "a test waits for programs that tell nobody when they are ready")]
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A folder that is gone after the test.
pub struct Folder(pub PathBuf);

impl Folder {
    /// A new one, that other users of the machine may look into (daemons drop their rights).
    pub fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("countersign-{name}-{}-{}", std::process::id(), free_port()));
        fs::create_dir_all(&folder).expect("a folder for the test");
        Self(folder)
    }

    /// Writes a file in it.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.0.join(name);
        fs::write(&file, text).expect("a file for the test");
        file
    }
}

/// Folders of this name that test processes left behind which were killed.
pub fn folders_of_the_dead(name: &str) -> Vec<PathBuf> {
    let prefix = format!("countersign-{name}-");
    let all = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    let is_left = |it: &fs::DirEntry| {
        let name = it.file_name();
        let owner = name.to_str().and_then(|it| it.strip_prefix(&prefix)).and_then(|it| it.split('-').next());
        owner.is_some_and(|it| it.bytes().all(|it| it.is_ascii_digit()) && !Path::new("/proc").join(it).exists())
    };
    all.filter(is_left).map(|it| it.path()).collect()
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A program that runs as long as the test does.
pub struct Running(Child);

impl Running {
    /// Starts it, quietly.
    pub fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the tool starts"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program to its end, which must be a good one.
pub fn run(command: &mut Command) {
    let done = command.stdin(Stdio::null()).output().expect("the tool starts");
    assert!(done.status.success(), "{command:?} said {}", String::from_utf8_lossy(&done.stderr));
}

/// A certificate for `localhost`, and the one that vouches for it.
pub struct Certificates {
    /// Who vouches.
    pub root: PathBuf,
    /// For whom.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Makes them.
pub fn certificates(openssl: &Path, folder: &Folder) -> Certificates {
    let at = |name: &str| folder.0.join(name);
    let (root, root_key, certificate, key, wish) = (at("root.pem"), at("root.key"), at("mail.pem"), at("mail.key"), at("mail.csr"));
    let names = folder.write("names", "subjectAltName=DNS:localhost\nbasicConstraints=critical,CA:FALSE\n");
    let new = |key: &Path, name: &str| {
        let mut it = Command::new(openssl);
        it.args(["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", name, "-keyout"]).arg(key);
        it
    };
    run(new(&root_key, "/CN=A root for tests").args(["-x509", "-days", "2", "-out"]).arg(&root));
    run(new(&key, "/CN=localhost").arg("-out").arg(&wish));
    run(Command::new(openssl)
        .args(["x509", "-req", "-days", "2", "-in"])
        .arg(&wish)
        .arg("-CA")
        .arg(&root)
        .arg("-CAkey")
        .arg(&root_key)
        .args(["-CAcreateserial", "-extfile"])
        .arg(&names)
        .arg("-out")
        .arg(&certificate));
    Certificates { root, certificate, key }
}
