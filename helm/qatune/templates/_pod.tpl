{{- /*
Parts of a pod, as every component has them:
  qatune.pod          who it runs as:                 dict "root" $ "component" "train" "account" NAME
  qatune.placement    which nodes take it:            dict "root" $ "component" "train" "live" (its Job)
  qatune.container    a container's image and rights: dict "root" $ "component" "train"
  qatune.env          its variables: dict "root" $ "component" "train" "env" (list of more)
  qatune.mounts       where the volumes lie
  qatune.volumes      scratch room, the recipe, certificates, shared memory
  qatune.resources    requests and limits, GPUs included
*/ -}}

{{- define "qatune.pod" -}}
{{- $pod := index .root.Values.stages .component -}}
serviceAccountName: {{ .account }}
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
- name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Kueue adds to selector and tolerations when it admits a Job: an upgrade keeps them as they are. */ -}}
{{- define "qatune.placement" -}}
{{- $pod := index .root.Values.stages .component -}}
{{- $live := dig "spec" "template" "spec" dict (.live | default dict) -}}
{{- with $pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $pod.runtimeClassName }}
runtimeClassName: {{ . }}
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

{{- /* A variable that the user gives stands instead of the chart's own. */ -}}
{{- define "qatune.env" -}}
{{- $given := (index .root.Values.stages .component).env -}}
{{- $names := list -}}
{{- range $given }}{{ $names = append $names .name }}{{ end -}}
{{- range concat (include "qatune.env.own" . | fromYamlArray) (.env | default list) $given -}}
{{- if or (has . $given) (not (has .name $names)) }}
- {{ toJson . }}
{{- end }}
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
- {name: {{ . }}, valueFrom: {secretKeyRef: {name: {{ $store.secret }}, key: {{ . }}}}}
{{- end }}
- {name: AWS_SESSION_TOKEN, valueFrom: {secretKeyRef: {name: {{ . }}, key: AWS_SESSION_TOKEN, optional: true}}}
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
  configMap: {name: {{ . }}}
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
requests: {{- merge (dict) $gpu $pod.resources.requests | toYaml | nindent 2 }}
limits: {{- merge (dict) $gpu $pod.resources.limits | toYaml | nindent 2 }}
{{- end -}}
