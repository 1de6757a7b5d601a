{{/* The namespaces that the operator looks into, as a YAML list; empty: all. */}}
{{- define "pubsub.watched" -}}
{{- if kindIs "slice" .Values.operator.watch -}}{{ toYaml .Values.operator.watch }}
{{- else if eq .Values.operator.watch "own" -}}{{ toYaml (list .Release.Namespace) }}
{{- else -}}[]
{{- end -}}
{{- end -}}

{{/* Where the operator lives and what it watches: for the operator, and for what takes its finalizers off at the end. */}}
{{- define "pubsub.operatorPlace" -}}
# The pod's name becomes the holder of the Lease.
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- {name: PUBSUB_LEASE, value: {{ include "pubsub.operator" . | quote }}}
- {name: PUBSUB_WATCH, value: {{ kindIs "slice" .Values.operator.watch | ternary (.Values.operator.watch | toStrings | join ",") .Values.operator.watch | quote }}}
{{- end -}}

{{/* A duration such as 5m in seconds. */}}
{{- define "pubsub.seconds" -}}
{{- $number := regexFind "^[0-9]+" . | int -}}
{{- mul $number (get (dict "s" 1 "m" 60 "h" 3600) (regexFind "[smh]$" .)) -}}
{{- end -}}

{{/* What the operator does where Topics are. */}}
{{- define "pubsub.topicRules" -}}
- apiGroups: [pubsub.dev]
  resources: [topics]
  verbs: [get, list, watch, patch]
- apiGroups: [pubsub.dev]
  resources: [topics/status]
  verbs: [patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{- define "pubsub.operatorSubject" -}}
- kind: ServiceAccount
  name: {{ include "pubsub.operator" . }}
  namespace: {{ .Release.Namespace }}
{{- end -}}
