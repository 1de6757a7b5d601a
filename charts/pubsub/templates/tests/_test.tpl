{{/* What is made for a test stays after a failure, to be looked at, until the next test. */}}
{{- define "pubsub.testHook" -}}
helm.sh/hook: test
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{/* A pod that calls the command line once. Takes root, name, weight, args and, if records are wanted, records. */}}
{{- define "pubsub.testPod" -}}
{{- $root := .root -}}
apiVersion: v1
kind: Pod
metadata:
  name: {{ include "pubsub.fullname" $root }}-test-{{ .name }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "pubsub.labels" (dict "root" $root "component" "test") | nindent 4 }}
  annotations: {{- include "pubsub.testHook" .weight | nindent 4 }}
spec:
  restartPolicy: OnFailure
  # It is tried again until then.
  activeDeadlineSeconds: 120
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext: {{- include "pubsub.podSecurityContext" $root | nindent 4 }}
  {{- with include "pubsub.pullSecrets" $root }}{{ trim . | nindent 2 }}{{ end }}
  {{- include "pubsub.dns" $root | nindent 2 }}
  containers:
    - name: {{ .name }}
      image: {{ include "pubsub.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      command: [/pubsub]
      args: {{- toYaml .args | nindent 8 }}
      resources:
        requests: {cpu: 10m, memory: 16Mi}
        limits: {memory: 64Mi}
      securityContext: {{- include "pubsub.securityContext" $root | nindent 8 }}
      {{- if .records }}
      volumeMounts:
        - {name: records, mountPath: /test}
      {{- end }}
  {{- if .records }}
  volumes:
    - name: records
      configMap: {name: {{ include "pubsub.fullname" $root }}-test-records}
  {{- end }}
{{- end -}}
