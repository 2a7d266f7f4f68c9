//! From a pod to the command line of its process. Pure, but for looking the image up.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};
use kube::ResourceExt as _;

use crate::process::Launch;

/// Which folder stands for which image: its `/manager` is the file `manager` in there.
#[derive(Debug, Clone, Default)]
pub struct Images(BTreeMap<String, PathBuf>);

impl Images {
    /// An image by the last part of its name, without registry, tag or digest.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, folder: impl Into<PathBuf>) -> Self {
        self.0.insert(name.into(), folder.into());
        self
    }

    fn folder(&self, image: &str) -> anyhow::Result<&Path> {
        let name = short_name(image);
        self.0.get(name).map(PathBuf::as_path).with_context(|| {
            format!(
                "no program stands for the image {image} (known: {:?})",
                self.0.keys()
            )
        })
    }
}

fn short_name(image: &str) -> &str {
    let name = image.rsplit('/').next().unwrap_or(image);
    name.split(['@', ':']).next().unwrap_or(name)
}

/// Where the parts of a pod are on this machine.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    pub address: Ipv4Addr,
    pub node_address: Ipv4Addr,
    pub host_root: &'a Path,
    pub kubeconfig: &'a Path,
    /// Volume name to folder.
    pub volumes: &'a BTreeMap<String, PathBuf>,
    pub log: PathBuf,
}

/// Where the agent's certificates are mounted, and the flag that says where they are instead.
const CERTIFICATES_FLAG: &str = "--certificates-dir";

/// Where webhook certificates are mounted, and the flag that says where they are instead.
const WEBHOOK_MOUNT: &str = "/tmp/k8s-webhook-server/serving-certs";
const WEBHOOK_FLAG: &str = "--webhook-cert-dir";

/// The container that a pod of ours has.
pub(crate) fn container(pod: &Pod) -> anyhow::Result<&Container> {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.containers.first())
        .context("the pod has no container")
}

/// The process of the pod's container.
pub(super) fn launch(pod: &Pod, images: &Images, places: &Places<'_>) -> anyhow::Result<Launch> {
    let container = container(pod)?;
    let image = container
        .image
        .as_deref()
        .context("the container has no image")?;
    let env = environment(pod, container, places)?;
    let mut words = container
        .command
        .iter()
        .flatten()
        .chain(container.args.iter().flatten());
    let entry = words.next().context("the container has no command")?;
    let entry = Path::new(entry.trim_start_matches('/'));
    if !entry
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        bail!("the command {} leaves its image", entry.display());
    }
    let program = images.folder(image)?.join(entry);
    let mut args: Vec<String> = words.map(|word| expand(word, &env)).collect();
    args.push(format!("--kubeconfig={}", places.kubeconfig.display()));
    if is_agent(pod) {
        args.push(format!("--host-root={}", places.host_root.display()));
        if let Some(folder) = secret_folder(pod, container, places) {
            args.push(format!("{CERTIFICATES_FLAG}={}", folder.display()));
        }
    }
    if let Some(folder) = webhook_folder(container, places) {
        args.push(format!("{WEBHOOK_FLAG}={}", folder.display()));
    }
    let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    let mut launch = Launch::new(name, program, &places.log).args(args);
    launch.env = env;
    Ok(launch)
}

/// Folder of the webhook's certificate, where somebody (OLM, cert-manager) has it mounted.
fn webhook_folder<'a>(container: &Container, places: &'a Places<'_>) -> Option<&'a PathBuf> {
    let mount = container
        .volume_mounts
        .iter()
        .flatten()
        .find(|mount| mount.mount_path == WEBHOOK_MOUNT)?;
    places.volumes.get(&mount.name)
}

/// The agent reads its host, so it gets the machine it runs on.
fn is_agent(pod: &Pod) -> bool {
    pod.labels()
        .get("app.kubernetes.io/component")
        .is_some_and(|component| component == "agent")
}

/// Folder of the first mounted Secret.
fn secret_folder<'a>(
    pod: &Pod,
    container: &Container,
    places: &'a Places<'_>,
) -> Option<&'a PathBuf> {
    let volumes = pod.spec.as_ref()?.volumes.as_ref()?;
    container.volume_mounts.iter().flatten().find_map(|mount| {
        let volume = volumes.iter().find(|volume| volume.name == mount.name)?;
        volume.secret.as_ref()?;
        places.volumes.get(&volume.name)
    })
}

/// The environment of the container.
pub(crate) fn environment(
    pod: &Pod,
    container: &Container,
    places: &Places<'_>,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut env = BTreeMap::new();
    for variable in container.env.iter().flatten() {
        let value = value(pod, variable, places)
            .with_context(|| format!("environment variable {}", variable.name))?;
        let value = expand(&value, &env);
        env.insert(variable.name.clone(), value);
    }
    Ok(env)
}

fn value(pod: &Pod, variable: &EnvVar, places: &Places<'_>) -> anyhow::Result<String> {
    let Some(from) = &variable.value_from else {
        return Ok(variable.value.clone().unwrap_or_default());
    };
    let Some(field) = &from.field_ref else {
        bail!("only fieldRef is known here")
    };
    let spec = pod.spec.as_ref().context("no spec")?;
    Ok(match field.field_path.as_str() {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "spec.nodeName" => spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.podIP" => places.address.to_string(),
        "status.hostIP" => places.node_address.to_string(),
        other => bail!("the field {other} is not known here"),
    })
}

/// `$(NAME)` as Kubernetes expands it: unknown names stay, `$$` is a dollar.
fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = after
            .strip_prefix('(')
            .and_then(|name| name.split_once(')'))
        {
            match env.get(name) {
                Some(value) => out.push_str(value),
                None => out.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn agent() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "ds-1", "namespace": "snr", "uid": "u",
                "labels": {"app.kubernetes.io/component": "agent"}},
            "spec": {
                "nodeName": "n1", "serviceAccountName": "sa",
                "volumes": [{"name": "dev", "hostPath": {"path": "/dev"}},
                            {"name": "certs", "secret": {"secretName": "s"}}],
                "containers": [{
                    "name": "manager",
                    "image": "quay.io/medik8s/self-node-remediation@sha256:00",
                    "command": ["/manager"],
                    "args": ["--is-manager=false", "--peer-bind-address=$(IP):$(PORT)", "$(NO) $$x"],
                    "env": [
                        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                        {"name": "PORT", "value": "30001"},
                        {"name": "MY_NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                    "volumeMounts": [{"name": "dev", "mountPath": "/dev"},
                                     {"name": "certs", "mountPath": "/certs"}],
                }],
            },
        }))
        .unwrap()
    }

    #[test]
    fn takes_arguments_environment_and_mounts_from_the_pod() {
        let volumes = BTreeMap::from([("certs".to_owned(), PathBuf::from("/tmp/certs"))]);
        let places = Places {
            address: Ipv4Addr::new(10, 1, 16, 2),
            node_address: Ipv4Addr::new(10, 1, 16, 1),
            host_root: Path::new("/tmp/n1"),
            kubeconfig: Path::new("/tmp/kc"),
            volumes: &volumes,
            log: PathBuf::from("/tmp/log"),
        };
        let images = Images::default().with("self-node-remediation", "/images/snr");
        let launch = launch(&agent(), &images, &places).unwrap();
        assert_eq!(launch.program, Path::new("/images/snr/manager"));
        assert_eq!(
            launch.args,
            [
                "--is-manager=false",
                "--peer-bind-address=10.1.16.2:30001",
                "$(NO) $x",
                "--kubeconfig=/tmp/kc",
                "--host-root=/tmp/n1",
                "--certificates-dir=/tmp/certs",
            ]
        );
        assert_eq!(launch.env.get("MY_NODE_NAME").unwrap(), "n1");
        assert!(
            !launch.env.contains_key("PATH"),
            "the pod's environment and nothing else"
        );
    }

    #[test]
    fn image_names_lose_registry_tag_and_digest() {
        assert_eq!(short_name("quay.io:443/a/b:v1"), "b");
        assert_eq!(short_name("b@sha256:1"), "b");
        assert!(Images::default().folder("x").is_err());
    }
}
