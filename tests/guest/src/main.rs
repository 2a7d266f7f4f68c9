//! The first process of a guest: mounts what a host has, loads modules, starts the agent and does to it
//! what the host's scenario asks for.
//!
//! # Guarantees
//! It never resets the machine, and a kernel whose first process has ended panics and stands still: a
//! reset of the guest is the watchdog's.

mod network;

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use medik8s_guest::{Message, Order, Request};
use nix::{
    errno::Errno,
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
    sys::{
        signal::{Signal, kill},
        termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr},
    },
    unistd::Pid,
};

/// Where the host speaks; the first port is the console.
const PORT: &str = "/dev/ttyS1";
/// A hierarchy of cgroup version 1, whose freezer takes single threads.
const FREEZER: &str = "/freezer";
/// How often a held watchdog is fed.
const FEED: Duration = Duration::from_secs(2);

fn main() -> anyhow::Result<()> {
    for (kind, place) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/run"),
    ] {
        mount_at(kind, place, None)?;
    }
    let port = OpenOptions::new().read(true).write(true).open(PORT)?;
    let mut raw = tcgetattr(&port)?;
    cfmakeraw(&mut raw);
    tcsetattr(&port, SetArg::TCSANOW, &raw)?;
    let guest = Guest {
        port: Arc::new(Mutex::new(port.try_clone()?)),
        processes: Arc::default(),
    };
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    say(
        &guest.port,
        &Message::Booted {
            boot_id: boot_id.trim().to_owned(),
        },
    );
    for line in BufReader::new(port).lines() {
        // What was on its way when an earlier boot ended is no whole line.
        let Ok(request) = serde_json::from_str::<Request>(&line?) else {
            continue;
        };
        let done = guest.carry_out(request.order);
        say(
            &guest.port,
            &Message::Done {
                number: request.number,
                error: done.err().map(|error| format!("{error:#}")),
            },
        );
    }
    bail!("the serial port was closed")
}

/// Tells the host; there is nobody else who could be told that this fails.
fn say(port: &Mutex<File>, message: &Message) {
    if let Ok(mut line) = serde_json::to_vec(message) {
        line.push(b'\n');
        drop(lock(port).write_all(&line));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn mount_at(kind: &str, place: &str, options: Option<&str>) -> anyhow::Result<()> {
    fs::create_dir_all(place)?;
    mount(Some(kind), place, Some(kind), MsFlags::empty(), options)
        .with_context(|| format!("mount {kind} at {place}"))
}

struct Guest {
    port: Arc<Mutex<File>>,
    /// Running processes by name.
    processes: Arc<Mutex<BTreeMap<String, Pid>>>,
}

impl Guest {
    fn carry_out(&self, order: Order) -> anyhow::Result<()> {
        match order {
            Order::Load { module, parameters } => load(&module, &parameters),
            Order::Network { addresses, gateway } => network::configure(&addresses, gateway),
            Order::Write { path, content } => write(&path, &content),
            Order::Start {
                name,
                program,
                args,
                env,
            } => self.start(name, &program, &args, env),
            Order::Signal { name, signal } => {
                Ok(kill(self.process(&name)?, Signal::try_from(signal)?)?)
            }
            Order::FreezeMainThread { name } => freeze(self.process(&name)?),
            Order::Hold { device } => hold(&device),
        }
    }

    fn process(&self, name: &str) -> anyhow::Result<Pid> {
        let processes = lock(&self.processes);
        let process = processes.get(name).copied();
        process.with_context(|| format!("{name} does not run"))
    }

    fn start(
        &self,
        name: String,
        program: &Path,
        args: &[String],
        env: BTreeMap<String, String>,
    ) -> anyhow::Result<()> {
        let console = OpenOptions::new().write(true).open("/dev/console")?;
        // Held until the process is known: its end is not told before.
        let mut processes = lock(&self.processes);
        let mut child = Command::new(program)
            .args(args)
            .env_clear()
            .envs(env)
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        processes.insert(name.clone(), Pid::from_raw(i32::try_from(child.id())?));
        let (port, known) = (Arc::clone(&self.port), Arc::clone(&self.processes));
        drop(thread::spawn(move || {
            let how = match child.wait() {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            };
            lock(&known).remove(&name);
            say(&port, &Message::Ended { name, how });
        }));
        Ok(())
    }
}

fn write(path: &Path, content: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, content).with_context(|| format!("write {}", path.display()))
}

/// As modprobe does: first what the module needs, by `modules.dep`.
fn load(module: &str, parameters: &str) -> anyhow::Result<()> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let folder = PathBuf::from("/lib/modules").join(release.trim());
    let dependencies = fs::read_to_string(folder.join("modules.dep"))?;
    let (file, needs) = dependencies
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(file, _)| file.rsplit('/').next() == Some(&format!("{module}.ko")))
        .with_context(|| format!("there is no module {module}"))?;
    for needed in needs.split_whitespace().rev() {
        insert(&folder.join(needed), "")?;
    }
    insert(&folder.join(file), parameters)
}

fn insert(file: &Path, parameters: &str) -> anyhow::Result<()> {
    let done = finit_module(
        File::open(file)?,
        &CString::new(parameters)?,
        ModuleInitFlags::empty(),
    );
    match done {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno).with_context(|| format!("insert {}", file.display())),
    }
}

/// The id of the main thread is that of the process.
fn freeze(thread: Pid) -> anyhow::Result<()> {
    let group = Path::new(FREEZER).join("frozen");
    if !group.exists() {
        mount_at("cgroup", FREEZER, Some("freezer"))?;
        fs::create_dir(&group)?;
    }
    fs::write(group.join("tasks"), thread.to_string())?;
    fs::write(group.join("freezer.state"), "FROZEN")?;
    for _ in 0..100 {
        if fs::read_to_string(group.join("freezer.state"))?.trim() == "FROZEN" {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
    bail!("the thread does not freeze")
}

fn hold(device: &Path) -> anyhow::Result<()> {
    let mut device = OpenOptions::new()
        .write(true)
        .open(device)
        .with_context(|| format!("open {}", device.display()))?;
    drop(thread::spawn(move || {
        while device.write_all(b"a").is_ok() {
            thread::sleep(FEED);
        }
    }));
    Ok(())
}
