{{/* Names and labels. Selectors and labels come from one place, so that they can't drift apart. */}}

{{/* Names leave room for the longest suffix and for what Kubernetes adds to a StatefulSet's pods. */}}
{{- define "pubsub.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "pubsub.broker" -}}{{ include "pubsub.fullname" . }}-broker{{- end -}}
{{- define "pubsub.discovery" -}}{{ include "pubsub.fullname" . }}-discovery{{- end -}}
{{- define "pubsub.operator" -}}{{ include "pubsub.fullname" . }}-operator{{- end -}}

{{/* What a component's pods are selected by. Takes a dictionary of root and component. Never changes during a release's life. */}}
{{- define "pubsub.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels of a component's objects. Takes a dictionary of root and component. */}}
{{- define "pubsub.labels" -}}
{{ include "pubsub.selector" . }}
app.kubernetes.io/part-of: pubsub
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of a component's pods: without versions, so that a new chart alone restarts nothing. Takes root, component and podLabels. */}}
{{- define "pubsub.podLabels" -}}
{{ toYaml (merge (include "pubsub.selector" . | fromYaml) .podLabels .root.Values.commonLabels) }}
{{- end -}}

{{/* The full name of a Service, or with a pod's name before it, of a pod. */}}
{{- define "pubsub.domain" -}}
{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end -}}

{{- define "pubsub.discoveryUrl" -}}
http://{{ include "pubsub.discovery" . }}.{{ include "pubsub.domain" (dict "root" .) }}:9090
{{- end -}}

{{- define "pubsub.clientUrl" -}}
http://{{ include "pubsub.fullname" . }}.{{ include "pubsub.domain" (dict "root" .) }}:{{ .Values.broker.service.port }}
{{- end -}}

{{/* Where one broker is reached. Takes root and pod, a pod's name. */}}
{{- define "pubsub.podUrl" -}}
http://{{ .pod }}.{{ include "pubsub.broker" .root }}.{{ include "pubsub.domain" . }}:8080
{{- end -}}

{{- define "pubsub.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- define "pubsub.clusterSecret" -}}
{{- default (printf "%s-cluster" (include "pubsub.fullname" .)) .Values.auth.existingSecret -}}
{{- end -}}
