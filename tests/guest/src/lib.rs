//! What the host and the first process of a guest say to each other.
//!
//! One JSON object per line on the second serial port: the host sends a [`Request`], the guest answers
//! each with [`Message::Done`] and tells by itself what happens.

use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Something the guest is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// Comes back in the answer.
    pub number: u64,
    /// What to do.
    pub order: Order,
}

/// What a guest can do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Order {
    /// Insert a kernel module, and what it needs before it.
    Load {
        /// Its name.
        module: String,
        /// Its parameters, as on modprobe's command line.
        parameters: String,
    },
    /// Switch the only network card on.
    Network {
        /// All its addresses.
        addresses: Vec<Ipv4Addr>,
        /// Where everything is sent to.
        gateway: Ipv4Addr,
    },
    /// Write a file, and make its folder.
    Write {
        /// Where.
        path: PathBuf,
        /// What.
        content: String,
    },
    /// Start a process; its output goes to the console.
    Start {
        /// Name for later orders.
        name: String,
        /// The program.
        program: PathBuf,
        /// Its arguments.
        args: Vec<String>,
        /// Its whole environment.
        env: BTreeMap<String, String>,
    },
    /// Send a signal to a process.
    Signal {
        /// Its name.
        name: String,
        /// Number of the signal.
        signal: i32,
    },
    /// Freeze the main thread of a process; its other threads go on.
    FreezeMainThread {
        /// Its name.
        name: String,
    },
    /// Open a watchdog and feed it for ever, as another program of the machine would.
    Hold {
        /// The device.
        device: PathBuf,
    },
}

/// What a guest says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Message {
    /// It is up and takes orders.
    Booted {
        /// The kernel's identifier of this boot.
        boot_id: String,
    },
    /// An order was carried out, or not.
    Done {
        /// Number of the request.
        number: u64,
        /// Why not.
        error: Option<String>,
    },
    /// A process has ended.
    Ended {
        /// Its name.
        name: String,
        /// Exit code or signal.
        how: String,
    },
}
