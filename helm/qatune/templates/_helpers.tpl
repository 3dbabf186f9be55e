{{- /*
Names and values that several templates need:
  qatune.fullname     what every object's name starts with
  qatune.run          the run's name in the store
  qatune.hash         eight digits of everything that a Job's spec depends on
  qatune.job.name     a stage's Job:              dict "root" $ "stage" "train"
  qatune.selector     labels that select a component: dict "root" $ "component" "train"
  qatune.labels       those and the others
  qatune.image        a component's image:        dict "root" $ "component" "train"
  qatune.stages       stages that this run has, in order, as JSON
  qatune.executes     not empty where answers are run, in a sandbox beside evaluate
  qatune.jobs         those stages, and the sandbox where there is one
  qatune.sandbox      URL by which the sandbox is reached
  qatune.sandbox.port its port
  qatune.store.port   port of the store's endpoint
*/ -}}

{{- /*
  A Service's name begins with a letter, and none has dots. A name that had to be changed gets digits
  of its own: two releases must not meet in one.
*/ -}}
{{- define "qatune.fullname" -}}
{{- $name := regexReplaceAll "^[0-9]" (.Release.Name | replace "." "-") "run-${0}" -}}
{{- if or (ne $name .Release.Name) (gt (len $name) 36) -}}
{{- $name = printf "%s-%s" ($name | trunc 31 | trimSuffix "-") (sha256sum .Release.Name | trunc 4) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "qatune.run" -}}
{{- .Values.run.name | default .Release.Name -}}
{{- end -}}

{{- /* A note, a policy or an account may change while the run goes on. */ -}}
{{- define "qatune.hash" -}}
{{- $spec := omit .Values "run" "networkPolicy" "serviceAccount" -}}
{{- list (include "qatune.run" .) (int .Values.run.attempt) .Chart.Version $spec | toJson | sha256sum | trunc 8 -}}
{{- end -}}

{{- define "qatune.job.name" -}}
{{- printf "%s-%s-%s" (include "qatune.fullname" .root) .stage (include "qatune.hash" .root) -}}
{{- end -}}

{{- define "qatune.selector" -}}
app.kubernetes.io/name: qatune
app.kubernetes.io/instance: {{ quote .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "qatune.labels" -}}
{{ include "qatune.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
qatune/run: {{ include "qatune.run" .root | quote }}
qatune/attempt: {{ int .root.Values.run.attempt | quote }}
{{- end -}}

{{- /* The image of preprocess runs all that needs no model. */ -}}
{{- define "qatune.image" -}}
{{- $pod := index .root.Values.stages .component -}}
{{- $name := has .component (list "train" "generate") | ternary .component "preprocess" -}}
{{- $image := .root.Values.image -}}
{{- $prefix := $image.registry | empty | ternary "" (printf "%s/" (trimSuffix "/" ($image.registry | default ""))) -}}
{{- $pod.image | default (printf "%sqatune-%s:%s" $prefix $name ($image.tag | default .root.Chart.AppVersion)) -}}
{{- end -}}

{{- /* An adapter from elsewhere, or none, needs no training. */ -}}
{{- define "qatune.stages" -}}
{{- $adapter := dig "generate" "adapter" "train" .Values.recipe -}}
{{- $stages := list -}}
{{- range list "preprocess" "train" "generate" "evaluate" -}}
{{- if and (index $.Values.stages .).enabled (or (ne . "train") (eq $adapter "train")) -}}
{{- $stages = append $stages . -}}
{{- end -}}
{{- end -}}
{{- $stages | toJson -}}
{{- end -}}

{{- define "qatune.executes" -}}
{{- $tests := dig "data" "columns" "tests" "" .Values.recipe -}}
{{- if and $tests (not (dig "generate" "input" "" .Values.recipe)) .Values.stages.evaluate.enabled }}yes{{ end -}}
{{- end -}}

{{- define "qatune.jobs" -}}
{{- $jobs := list -}}
{{- range include "qatune.stages" . | fromJsonArray -}}
{{- if and (eq . "evaluate") (include "qatune.executes" $) }}{{ $jobs = append $jobs "execute" }}{{ end -}}
{{- $jobs = append $jobs . -}}
{{- end -}}
{{- $jobs | toJson -}}
{{- end -}}

{{- define "qatune.sandbox" -}}
http://{{ include "qatune.job.name" (dict "root" . "stage" "execute") }}:{{ include "qatune.sandbox.port" . }}
{{- end -}}

{{- define "qatune.sandbox.port" -}}8021{{- end -}}

{{- define "qatune.store.port" -}}
{{- $url := .Values.store.endpoint | default "https://s3" | urlParse -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- $port | default (eq $url.scheme "http" | ternary "80" "443") -}}
{{- end -}}
