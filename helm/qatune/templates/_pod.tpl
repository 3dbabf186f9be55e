{{- /*
Parts of a pod, as every component has them:
  qatune.pod.metadata its labels and annotations:     dict "root" $ "component" "train"
  qatune.pod          who it runs as:                 dict "root" $ "component" "train" "account" NAME
  qatune.placement    which nodes take it:            dict "root" $ "component" "train" "live" (its Job)
  qatune.container    a container's image and rights: dict "root" $ "component" "train"
  qatune.env          its variables: dict "root" $ "component" "train" "env" (list of more)
  qatune.mounts       where the volumes lie
  qatune.volumes      scratch room, the recipe, certificates, shared memory
  qatune.resources    requests and limits, GPUs included
  qatune.amount       a quantity as a number
*/ -}}

{{- define "qatune.pod.metadata" -}}
{{- $pod := index .root.Values.stages .component -}}
{{- range $key, $_ := $pod.podLabels -}}
{{- if or (hasPrefix "app.kubernetes.io/" $key) (hasPrefix "qatune/" $key) -}}
{{- fail (printf "\n\nstages.%s.podLabels: %s is the chart's own: choose another label\n" $.component $key) -}}
{{- end -}}
{{- end -}}
labels: {{- include "qatune.labels" . | nindent 2 }}
  {{- with $pod.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $pod.podAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "qatune.pod" -}}
{{- $pod := index .root.Values.stages .component -}}
serviceAccountName: {{ quote .account }}
enableServiceLinks: false
restartPolicy: Never
terminationGracePeriodSeconds: {{ int $pod.terminationGracePeriodSeconds }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ quote . }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Kueue adds to selector and tolerations when it admits a Job: an upgrade keeps them as they are. */ -}}
{{- define "qatune.placement" -}}
{{- $pod := index .root.Values.stages .component -}}
{{- $live := dig "spec" "template" "spec" dict (.live | default dict) -}}
{{- with $pod.priorityClassName }}
priorityClassName: {{ quote . }}
{{- end }}
{{- with $pod.runtimeClassName }}
runtimeClassName: {{ quote . }}
{{- end }}
{{- with $live | empty | ternary $pod.nodeSelector $live.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $live | empty | ternary $pod.tolerations $live.tolerations }}
tolerations: {{- toYaml . | nindent 0 }}
{{- end }}
{{- with $pod.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "qatune.container" -}}
image: {{ include "qatune.image" . | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{- define "qatune.env" -}}
{{- $own := concat (include "qatune.env.own" . | fromYamlArray) (.env | default list) -}}
{{- include "qatune.guard.env" (dict "root" .root "component" .component "own" $own) -}}
{{- range concat $own (index .root.Values.stages .component).env }}
- {{ toJson . }}
{{- end }}
{{- end -}}

{{- define "qatune.env.own" -}}
{{- $store := .root.Values.store -}}
- {name: QATUNE_STORE, value: {{ $store.uri | quote }}}
- {name: QATUNE_RECIPE, value: /etc/qatune/recipe.json}
- {name: QATUNE_CACHE, value: /scratch/cache}
- {name: QATUNE_IMAGE, value: {{ include "qatune.image" . | quote }}}
- {name: HOME, value: /scratch}
- {name: TMPDIR, value: /tmp}
{{- with $store.endpoint }}
- {name: AWS_ENDPOINT_URL_S3, value: {{ . | quote }}}
{{- end }}
{{- with $store.region }}
- {name: AWS_REGION, value: {{ . | quote }}}
{{- end }}
{{- with $store.secret }}
{{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- {name: {{ . }}, valueFrom: {secretKeyRef: {name: {{ quote $store.secret }}, key: {{ . }}}}}
{{- end }}
- {name: AWS_SESSION_TOKEN, valueFrom: {secretKeyRef: {name: {{ quote . }}, key: AWS_SESSION_TOKEN, optional: true}}}
{{- end }}
{{- if $store.caBundle.configMap }}
- {name: AWS_CA_BUNDLE, value: /etc/qatune-ca/{{ $store.caBundle.key }}}
{{- end }}
{{- end -}}

{{- define "qatune.mounts" -}}
- {name: scratch, mountPath: /scratch}
- {name: scratch, mountPath: /tmp}
- {name: recipe, mountPath: /etc/qatune, readOnly: true}
{{- if .root.Values.store.caBundle.configMap }}
- {name: ca, mountPath: /etc/qatune-ca, readOnly: true}
{{- end }}
{{- if (index .root.Values.stages .component).shmSize }}
- {name: shm, mountPath: /dev/shm}
{{- end }}
{{- end -}}

{{- define "qatune.volumes" -}}
{{- $pod := index .root.Values.stages .component -}}
- name: scratch
  emptyDir: {{- if $pod.scratchSize }} {sizeLimit: {{ $pod.scratchSize | quote }}}{{ else }} {}{{ end }}
- name: recipe
  configMap: {name: {{ include "qatune.recipe.name" .root }}}
{{- with .root.Values.store.caBundle.configMap }}
- name: ca
  configMap: {name: {{ quote . }}}
{{- end }}
{{- with $pod.shmSize }}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ . | quote }}}
{{- end }}
{{- end -}}

{{- /* An extended resource is asked for and limited alike. */ -}}
{{- define "qatune.resources" -}}
{{- $pod := index .root.Values.stages .component -}}
{{- $gpu := dict -}}
{{- if dig "gpu" "count" 0 $pod | int -}}
{{- $gpu = dict $pod.gpu.resource (int $pod.gpu.count) -}}
{{- end -}}
{{- range $what, $amount := $pod.resources.requests -}}
{{- $limit := get $pod.resources.limits $what -}}
{{- if ne (toString $limit) "" -}}
{{- if gt (include "qatune.amount" $amount | float64) (include "qatune.amount" $limit | float64) -}}
{{- fail (printf "\n\nstages.%s.resources: %v %s are requested, more than the limit of %v\n" $.component $amount $what $limit) -}}
{{- end -}}
{{- end -}}
{{- end -}}
requests: {{- merge (dict) $gpu $pod.resources.requests | toYaml | nindent 2 }}
limits: {{- merge (dict) $gpu $pod.resources.limits | toYaml | nindent 2 }}
{{- end -}}

{{- /* A quantity of Kubernetes' as a number: 1.5Gi, 250m, 4 */ -}}
{{- define "qatune.amount" -}}
{{- $decimal := dict "" 1 "m" 1e-3 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 -}}
{{- $binary := dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 -}}
{{- $unit := toString . | regexFind "[A-Za-z]*$" -}}
{{- mulf (toString . | trimSuffix $unit | float64) (merge $decimal $binary | dig $unit 1 | float64) -}}
{{- end -}}
