{{/* What all pods have in common. */}}

{{/* The restricted Pod Security Standard, and a little more. */}}
{{- define "pubsub.podSecurityContext" -}}
runAsNonRoot: true
{{- with .Values.podSecurity.runAsUser }}
runAsUser: {{ int64 . }}
{{- end }}
{{- with .Values.podSecurity.runAsGroup }}
runAsGroup: {{ int64 . }}
{{- end }}
{{- with .Values.podSecurity.fsGroup }}
fsGroup: {{ int64 . }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "pubsub.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Placement of a component's pods. Takes the component's values. */}}
{{- define "pubsub.placement" -}}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{- define "pubsub.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Every name that our pods look up is a full one. Without this each lookup would try the search domains first. */}}
{{- define "pubsub.dns" -}}
dnsConfig:
  options: [{name: ndots, value: "1"}]
{{- end -}}

{{- define "pubsub.secretEnv" -}}
- name: PUBSUB_CLUSTER_SECRET
  valueFrom: {secretKeyRef: {name: {{ include "pubsub.clusterSecret" . }}, key: cluster-secret}}
{{- end -}}
