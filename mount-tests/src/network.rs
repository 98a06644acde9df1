//! A network of its own for each scenario: a namespace with a bridge, and one for each peer behind
//! a veth link that can be cut. Nothing of it is visible in the machine's own network.

use std::collections::BTreeMap;

use crate::Command;

/// The namespaces of a scenario; dropping it removes them.
#[derive(Debug)]
pub struct Network {
    /// Begins every namespace's name; unique on the machine.
    tag: String,
    /// Peer name to the last part of its address.
    hosts: BTreeMap<String, u8>,
}

impl Network {
    /// Makes the hub.
    pub fn new(tag: &str) -> Self {
        let network = Self {
            tag: tag.to_owned(),
            hosts: BTreeMap::new(),
        };
        let hub = network.hub();
        ip(&["netns", "add", &hub]);
        ip(&["-n", &hub, "link", "add", BRIDGE, "type", "bridge"]);
        ip(&["-n", &hub, "link", "set", BRIDGE, "up"]);
        network
    }

    /// Returns the namespace that all packets pass.
    pub fn hub(&self) -> String {
        format!("{}-hub", self.tag)
    }

    /// Makes a host and returns its namespace and its address.
    pub fn add(&mut self, host: &str) -> (String, String) {
        let number = u8::try_from(self.hosts.len() + 1).expect("a scenario has few peers");
        self.hosts.insert(host.to_owned(), number);
        let (hub, namespace) = (self.hub(), self.namespace(host));
        let (link, address) = (link(number), address(number));
        ip(&["netns", "add", &namespace]);
        ip(&[
            "-n", &hub, "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns",
            &namespace,
        ]);
        ip(&["-n", &hub, "link", "set", &link, "master", BRIDGE, "up"]);
        ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        ip(&["-n", &namespace, "link", "set", "eth0", "up"]);
        let with_prefix = format!("{address}/24");
        ip(&["-n", &namespace, "addr", "add", &with_prefix, "dev", "eth0"]);
        (namespace, address)
    }

    /// Cuts a host off; it keeps its address and notices nothing but silence.
    pub fn cut(&self, host: &str) {
        self.set_link(host, "down");
    }

    /// Connects a host that was cut off.
    pub fn mend(&self, host: &str) {
        self.set_link(host, "up");
    }

    fn set_link(&self, host: &str, state: &str) {
        let number = *self.hosts.get(host).expect("a host that was added");
        ip(&["-n", &self.hub(), "link", "set", &link(number), state]);
    }

    fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.tag)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove_namespaces(&format!("{}-", self.tag));
    }
}

/// Returns the namespaces whose name begins with `prefix`.
pub fn namespaces(prefix: &str) -> Vec<String> {
    let listed = Command::new("ip")
        .args(["netns", "list"])
        .run()
        .stdout_text();
    listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with(prefix))
        .map(str::to_owned)
        .collect()
}

/// Removes the namespaces whose name begins with `prefix`.
pub fn remove_namespaces(prefix: &str) {
    for name in namespaces(prefix) {
        let _ = Command::new("ip").args(["netns", "del", &name]).run();
    }
}

/// Moves the calling thread, and no other, into a namespace.
///
/// # Panics
///
/// When there is no such namespace.
pub fn enter_namespace(name: &str) {
    let namespace = std::fs::File::open(std::path::Path::new("/run/netns").join(name))
        .expect("a namespace that was made");
    rustix::thread::move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&namespace),
        Some(rustix::thread::LinkNameSpaceType::Network),
    )
    .expect("root may enter a namespace");
}

const BRIDGE: &str = "hub0";

fn link(number: u8) -> String {
    format!("to{number}")
}

fn address(number: u8) -> String {
    format!("10.77.0.{number}")
}

fn ip(args: &[&str]) {
    Command::new("ip").args(args).ok();
}
