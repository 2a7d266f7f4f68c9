//! What the manager creates once, so that a fresh install works.

use kube::ResourceExt;
use medik8s_api::{
    names::{
        contract::{DEFAULT_TEMPLATE_LABEL, TRUE},
        snr::{CONFIG_NAME, DEFAULT_TEMPLATE_NAME, RESOURCE_DELETION_TEMPLATE_NAME},
    },
    self_node_remediation::{
        RemediationStrategy, SelfNodeRemediationConfig, SelfNodeRemediationConfigSpec,
        SelfNodeRemediationSpec, SelfNodeRemediationTemplate, SelfNodeRemediationTemplateResource,
        SelfNodeRemediationTemplateSpec, defaults,
    },
};

use crate::validate::MULTIPLE_TEMPLATES_MARK;

/// Watchdog timeout of a fresh install: with softdog's own 60 s a node is freed after 220 s, with
/// this after 140 s. An existing configuration is never changed.
const WATCHDOG_TIMEOUT: &str = "20s";

/// The configuration of a fresh install; what is not set has the defaults of the schema.
pub fn config(namespace: &str) -> SelfNodeRemediationConfig {
    let mut config = SelfNodeRemediationConfig::new(
        CONFIG_NAME,
        SelfNodeRemediationConfigSpec {
            watchdog_file_path: Some(defaults::WATCHDOG_FILE_PATH.to_owned()),
            is_software_reboot_enabled: Some(true),
            watchdog_timeout: Some(WATCHDOG_TIMEOUT.into()),
            ..SelfNodeRemediationConfigSpec::default()
        },
    );
    config.metadata.namespace = Some(namespace.to_owned());
    config
}

/// The templates of a fresh install: the one that user interfaces offer first, and the one that
/// published manuals name.
pub fn templates(namespace: &str) -> [SelfNodeRemediationTemplate; 2] {
    let automatic = template(
        namespace,
        DEFAULT_TEMPLATE_NAME,
        RemediationStrategy::Automatic,
    );
    let deletion = template(
        namespace,
        RESOURCE_DELETION_TEMPLATE_NAME,
        RemediationStrategy::ResourceDeletion,
    );
    let mut automatic = automatic;
    automatic
        .labels_mut()
        .insert(DEFAULT_TEMPLATE_LABEL.to_owned(), TRUE.to_owned());
    [automatic, deletion]
}

fn template(
    namespace: &str,
    name: &str,
    strategy: RemediationStrategy,
) -> SelfNodeRemediationTemplate {
    let (mark, value) = MULTIPLE_TEMPLATES_MARK;
    let mut template = SelfNodeRemediationTemplate::new(
        name,
        SelfNodeRemediationTemplateSpec {
            template: SelfNodeRemediationTemplateResource {
                spec: SelfNodeRemediationSpec {
                    remediation_strategy: Some(strategy),
                },
            },
        },
    );
    template.metadata.namespace = Some(namespace.to_owned());
    template
        .annotations_mut()
        .insert(mark.to_owned(), value.to_owned());
    template
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate;

    #[test]
    fn the_own_webhook_admits_them() {
        let config = config("snr");
        assert_eq!(
            validate::create_config(&config, "snr"),
            validate::Review::default()
        );
        for template in templates("snr") {
            assert!(!validate::needs_multiple_templates_mark(&template));
        }
    }

    #[test]
    fn only_one_template_is_offered_first() {
        let offered: Vec<_> = templates("snr")
            .iter()
            .filter(|template| template.labels().contains_key(DEFAULT_TEMPLATE_LABEL))
            .map(ResourceExt::name_any)
            .collect();
        assert_eq!(offered, [DEFAULT_TEMPLATE_NAME]);
    }
}
