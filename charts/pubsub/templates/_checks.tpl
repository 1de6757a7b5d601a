{{/* What the schema can't say: settings that do not go together. Each message says what to do. */}}

{{/* How many brokers found the cluster. Later upgrades never lower it: see UPGRADING.md. */}}
{{- define "pubsub.founders" -}}
{{- $replicas := int .Values.broker.replicaCount -}}
{{- $installed := int (include "pubsub.foundersInstalled" .) -}}
{{- if kindIs "invalid" .Values.broker.founders -}}
{{- $wanted := ternary 3 (min 3 $replicas) (eq $replicas 0) -}}
{{- max $installed $wanted -}}
{{- else -}}
{{- int .Values.broker.founders -}}
{{- end -}}
{{- end -}}

{{/* How many founded the cluster that is installed; 0 if there is none, or if the API server is not asked. */}}
{{- define "pubsub.foundersInstalled" -}}
{{- $found := lookup "apps/v1" "Deployment" .Release.Namespace (include "pubsub.discovery" .) -}}
{{- if $found -}}
{{- int (default "0" (index (default (dict) $found.metadata.annotations) "pubsub.dev/founders")) -}}
{{- else -}}0{{- end -}}
{{- end -}}

{{- define "pubsub.checkFounders" -}}
{{- $replicas := int .Values.broker.replicaCount -}}
{{- $installed := int (include "pubsub.foundersInstalled" .) -}}
{{- $founders := int (include "pubsub.founders" .) -}}
{{- if lt $founders $installed -}}
{{- fail (printf "broker.founders is %d, but %d brokers founded this cluster: leave broker.founders out, or set it to %d" $founders $installed $installed) -}}
{{- end -}}
{{- if and (eq $installed 0) (gt $founders $replicas) (gt $replicas 0) .Release.IsInstall -}}
{{- fail (printf "broker.founders is %d, but broker.replicaCount is %d: a new cluster begins once all its founders are up; lower broker.founders or raise broker.replicaCount" $founders $replicas) -}}
{{- end -}}
{{- if and (gt $replicas 0) (le (mul 2 $replicas) $installed) -}}
{{- fail (printf "broker.replicaCount is %d, but %d brokers vote in this cluster: without more than half of them nothing can be elected; use %d or more" $replicas $installed (add 1 (div $installed 2))) -}}
{{- end -}}
{{- end -}}

{{- define "pubsub.checks" -}}
{{- include "pubsub.checkFounders" . -}}
{{- if and (not .Values.persistence.enabled) (not .Values.persistence.acceptDataLoss) -}}
{{- fail "persistence.enabled is false: a broker that is deleted loses its records. Set persistence.acceptDataLoss=true if that is right, or leave persistence on" -}}
{{- end -}}
{{- if and .Values.topics (not .Values.operator.enabled) -}}
{{- fail "topics lists Topic objects, but operator.enabled is false: nobody would make these topics" -}}
{{- end -}}
{{- range .Values.topics -}}
{{- $spec := default (dict) .spec -}}
{{- if and $spec.replicationFactor $spec.minInSyncReplicas (gt (int $spec.minInSyncReplicas) (int $spec.replicationFactor)) -}}
{{- fail (printf "topics: %s has minInSyncReplicas %d above its replicationFactor %d: no publish could ever be acknowledged" .name (int $spec.minInSyncReplicas) (int $spec.replicationFactor)) -}}
{{- end -}}
{{- end -}}
{{- if le (int .Values.broker.terminationGracePeriodSeconds) (add 6 (int .Values.broker.preStopSleepSeconds)) -}}
{{- fail (printf "broker.terminationGracePeriodSeconds is %d: a broker takes up to 6 s after broker.preStopSleepSeconds (%d) to hand over; allow more" (int .Values.broker.terminationGracePeriodSeconds) (int .Values.broker.preStopSleepSeconds)) -}}
{{- end -}}
{{- end -}}
