//! Everything that passes the scenario's network, as bytes in a file.

use std::fs::File;
use std::io::Write;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType};

use crate::network::{Network, enter_namespace};
use crate::wait::spawn;

/// A running capture; dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Writes every packet of the network to `path` from now on.
    ///
    /// # Panics
    ///
    /// When packets cannot be seen.
    pub fn start(network: &Network, path: &Path) -> Self {
        let hub = network.hub();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, file) = (Arc::clone(&stop), path.to_owned());
        let (sender, ready) = std::sync::mpsc::channel();
        let thread = spawn(move || {
            enter_namespace(&hub);
            let socket = packet_socket();
            let _ = sender.send(());
            write_packets(&socket, &file, &stopped);
        });
        ready.recv().expect("the capture starts");
        Self {
            path: path.to_owned(),
            stop,
            thread: Some(thread),
        }
    }

    /// Ends the capture and returns the packets, with their Ethernet headers.
    ///
    /// # Panics
    ///
    /// When the file cannot be read.
    pub fn finish(mut self) -> Vec<Vec<u8>> {
        self.end();
        let bytes = std::fs::read(&self.path).expect("the capture wrote a file");
        let mut rest = bytes.as_slice();
        let mut packets = Vec::new();
        while let Some((len, tail)) = rest.split_first_chunk() {
            let (packet, tail) = tail.split_at(u32::from_le_bytes(*len) as usize);
            packets.push(packet.to_vec());
            rest = tail;
        }
        packets
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the capture ends well");
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Returns a socket that sees every packet of its namespace.
fn packet_socket() -> OwnedFd {
    // ETH_P_ALL in network byte order.
    let all = NonZeroU32::new(u32::from(3u16.to_be())).map(Protocol::from_raw);
    let socket = rustix::net::socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        all,
    )
    .expect("root may open a packet socket");
    let pause = Some(Duration::from_millis(100));
    set_socket_timeout(&socket, Timeout::Recv, pause).expect("a receive may time out");
    // A burst between two looks; what is lost beyond it does not matter for a search.
    let _ = set_socket_recv_buffer_size_force(&socket, 64 << 20);
    socket
}

fn write_packets(socket: &OwnedFd, path: &Path, stop: &AtomicBool) {
    let mut file = std::io::BufWriter::new(File::create(path).expect("a file can be written"));
    let mut packet = vec![0u8; 1 << 17];
    while !stop.load(Ordering::Relaxed) {
        match rustix::net::recv(socket, packet.as_mut_slice(), RecvFlags::empty()) {
            Ok((len, _)) => {
                let seen = packet.get(..len).unwrap_or_default();
                let len = u32::try_from(seen.len()).expect("packets are small");
                file.write_all(&len.to_le_bytes())
                    .expect("the disk has room");
                file.write_all(seen).expect("the disk has room");
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => panic!("the capture broke: {error}"),
        }
    }
    file.flush().expect("the disk has room");
}
