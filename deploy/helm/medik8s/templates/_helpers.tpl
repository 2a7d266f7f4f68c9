{{/* The namespace of the operators. */}}
{{- define "medik8s.namespace" -}}
{{- .Values.namespace.name | default .Release.Namespace -}}
{{- end }}

{{/* Labels of every object, beside those that the operators' own manifests have. */}}
{{- define "medik8s.labels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The image of an operator: a digest wins over a tag. */}}
{{- define "medik8s.image" -}}
{{- $image := .operator.image -}}
{{- $repository := printf "%s/%s" .root.Values.imageRegistry $image.repository -}}
{{- if $image.digest -}}
{{ $repository }}@{{ $image.digest }}
{{- else -}}
{{ $repository }}:{{ $image.tag | default .root.Values.imageTag | default (printf "v%s" .root.Chart.AppVersion) }}
{{- end -}}
{{- end }}

{{/* What keeps CRDs at an uninstallation. */}}
{{- define "medik8s.keep" -}}
{{- if .root.Values.crds.keep -}}
helm.sh/resource-policy: keep
{{- end -}}
{{- end }}

{{- define "medik8s.podLabels" -}}
{{- with .operator.podLabels }}{{ toYaml . }}{{ end -}}
{{- end }}

{{- define "medik8s.podAnnotations" -}}
{{- with .operator.podAnnotations }}{{ toYaml . }}{{ end -}}
{{- end }}

{{/* Parts of a pod: pull secrets, and the certificate that cert-manager keeps. */}}
{{- define "medik8s.pod" -}}
{{- with .root.Values.imagePullSecrets -}}
imagePullSecrets:
{{ toYaml . }}
{{ end -}}
{{- if eq .root.Values.webhooks.certificates "cert-manager" -}}
volumes:
- name: webhook-certificate
  secret:
    secretName: {{ .prefix }}-webhook-certificate
{{- end -}}
{{- end }}

{{/* Parts of the manager's container. */}}
{{- define "medik8s.container" -}}
{{- if eq .root.Values.webhooks.certificates "cert-manager" -}}
volumeMounts:
- name: webhook-certificate
  mountPath: /tmp/k8s-webhook-server/serving-certs
  readOnly: true
{{- end -}}
{{- end }}
