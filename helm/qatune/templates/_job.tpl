{{- /*
  qatune.job   a stage's Job, suspended until the coordinator releases it:
               dict "root" $ "stage" "train" "after" "preprocess" "env" (list of variables)
                    "pods" N (Indexed, side by side) "each" true (every index stands for itself)
                    "subdomain" NAME (of the Service by which the pods find each other)
*/ -}}
{{- define "qatune.job" -}}
{{- $root := .root -}}
{{- $name := include "qatune.job.name" . -}}
{{- $pod := index $root.Values.stages .stage -}}
{{- $given := dict "root" $root "component" .stage "account" (include "qatune.fullname" $root) -}}
{{- /* What the coordinator has changed stays: an upgrade must not suspend a running Job again. */ -}}
{{- $live := lookup "batch/v1" "Job" $root.Release.Namespace $name -}}
{{- $parked := $root.Values.kueue.queue | empty | ternary "" "qatune-parked" -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ $name }}
  labels: {{- include "qatune.labels" $given | nindent 4 }}
    {{- if $parked }}
    kueue.x-k8s.io/queue-name: {{ dig "metadata" "labels" "kueue.x-k8s.io/queue-name" $parked $live | quote }}
    {{- end }}
  annotations:
    qatune/store: {{ $root.Values.store.uri | quote }}
    {{- with .after }}
    qatune/after: {{ . }}
    {{- end }}
    {{- with $root.Values.kueue.queue }}
    qatune/queue: {{ quote . }}
    {{- end }}
spec:
  suspend: {{ dig "spec" "suspend" true $live }}
  {{- with $pod.activeDeadlineSeconds }}
  activeDeadlineSeconds: {{ int . }}
  {{- end }}
  {{- if .pods }}
  completionMode: Indexed
  completions: {{ .pods }}
  parallelism: {{ .pods }}
  {{- end }}
  # When one pod of a training goes, all go.
  {{ .each | ternary "backoffLimitPerIndex" "backoffLimit" }}: {{ .each | ternary 1 (.pods | default 1) | mul $pod.backoffLimit }}
  podReplacementPolicy: Failed
  podFailurePolicy:
    rules:
    # 75: interrupted with its progress saved. 64 to 66, 77, 78: no retry can help.
    - action: Ignore
      onExitCodes: {containerName: {{ .stage }}, operator: In, values: [75]}
    - action: {{ .each | ternary "FailIndex" "FailJob" }}
      onExitCodes: {containerName: {{ .stage }}, operator: In, values: [64, 65, 66, 77, 78]}
    - action: Ignore
      onPodConditions: [{type: DisruptionTarget, status: "True"}]
  template:
    metadata: {{- include "qatune.pod.metadata" $given | nindent 6 }}
    spec:
      automountServiceAccountToken: false
      {{- include "qatune.pod" $given | nindent 6 }}
      {{- include "qatune.placement" (merge (dict "live" $live) $given) | nindent 6 }}
      {{- with .subdomain }}
      subdomain: {{ . }}
      {{- end }}
      containers:
      - name: {{ .stage }}
        {{- include "qatune.container" $given | nindent 8 }}
        args: [{{ .stage }}, --run, {{ include "qatune.run" $root | quote }}]
        env: {{- include "qatune.env" (merge (dict "env" .env) $given) | nindent 8 }}
        resources: {{- include "qatune.resources" $given | nindent 10 }}
        volumeMounts: {{- include "qatune.mounts" $given | nindent 8 }}
      volumes: {{- include "qatune.volumes" $given | nindent 6 }}
{{- end -}}
