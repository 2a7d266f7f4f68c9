//! Configuration of containerd, of its network and of the kubelet of one node.

use std::{fs, net::Ipv4Addr, path::Path, process::Command};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

/// How often a kubelet renews its Lease is a quarter of this; the node controller waits
/// [`crate::NODE_MONITOR_GRACE`].
const LEASE_SECONDS: u64 = 20;

/// What the files say about the node.
pub(super) struct Node<'a> {
    /// Its files.
    pub folder: &'a Path,
    /// Programs of containerd.
    pub tools: &'a Path,
    /// The image of the sandboxes.
    pub sandbox: &'a str,
    /// Addresses of its pods.
    pub pods: &'a str,
    /// The first of them; the very first address of the range is the node's.
    pub first: Ipv4Addr,
    /// The address that its pods send to.
    pub gateway: Ipv4Addr,
    /// Name of its cgroups.
    pub cgroup: &'a str,
    /// Whether it belongs to the control plane.
    pub control_plane: bool,
}

impl Node<'_> {
    /// Writes all files.
    pub(super) fn write(&self) -> anyhow::Result<()> {
        let network = self.folder.join("cni");
        fs::create_dir_all(&network)?;
        let put = |name: &str, value: &Value| -> anyhow::Result<()> {
            Ok(fs::write(
                self.folder.join(name),
                serde_json::to_vec_pretty(value)?,
            )?)
        };
        put("cni/pods.conflist", &self.network())?;
        put("container.json", &self.container()?)?;
        put("kubelet.json", &self.kubelet())?;
        fs::write(self.folder.join("containerd.toml"), self.containerd())?;
        Ok(())
    }

    fn network(&self) -> Value {
        json!({
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [{
                "type": "bridge",
                "bridge": "pods",
                "isGateway": true,
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni",
                    "ranges": [[{
                        "subnet": self.pods,
                        "rangeStart": self.first,
                        "gateway": self.gateway,
                    }]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }],
        })
    }

    /// What every container starts from: containerd's own, with our hook.
    fn container(&self) -> anyhow::Result<Value> {
        let told = Command::new(self.tools.join("ctr"))
            .args(["oci", "spec"])
            .output()
            .context("run ctr")?;
        ensure!(
            told.status.success(),
            "ctr oci spec: {}",
            String::from_utf8_lossy(&told.stderr)
        );
        let mut spec: Value = serde_json::from_slice(&told.stdout)?;
        let hook = json!({"path": self.tools.join("workload"), "args": ["workload", "hook"]});
        spec.as_object_mut()
            .context("ctr oci spec says no object")?
            .insert("hooks".to_owned(), json!({"createContainer": [hook]}));
        Ok(spec)
    }

    fn containerd(&self) -> String {
        let (folder, tools, sandbox) = (self.folder.display(), self.tools.display(), self.sandbox);
        format!(
            r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]

[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{sandbox}"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{tools}"]
conf_dir = "{folder}/cni"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
base_runtime_spec = "{folder}/container.json"
"#
        )
    }

    fn kubelet(&self) -> Value {
        let taints = if self.control_plane {
            json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}])
        } else {
            json!([])
        };
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.cgroup,
            "cgroupsPerQOS": false,
            "enforceNodeAllocatable": [],
            "failCgroupV1": false,
            "failSwapOn": false,
            "resolvConf": "",
            // Nobody answers there: everything here speaks to addresses.
            "clusterDNS": ["10.255.0.10"],
            "makeIPTablesUtilChains": false,
            "localStorageCapacityIsolation": false,
            "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
            "imageGCHighThresholdPercent": 100,
            "nodeLeaseDurationSeconds": LEASE_SECONDS,
            "oomScoreAdj": 0,
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
            "registerWithTaints": taints,
        })
    }
}
