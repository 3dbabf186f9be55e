{{- /*
What is refused before anything is made:
  qatune.guard      a change of a run that has begun, and what would end or meet another run
  qatune.guard.env  a variable of the user's that is the chart's, or a secret: dict "root" $ "component" "train" "own" (list)
*/ -}}

{{- define "qatune.guard" -}}
{{- $run := include "qatune.run" . -}}
{{- $live := lookup "v1" "ConfigMap" .Release.Namespace (printf "%s-run" (include "qatune.fullname" .)) -}}
{{- include "qatune.guard.others" . -}}
{{- if and $live (eq $live.data.run $run) -}}
{{- $first := lookup "batch/v1" "Job" .Release.Namespace (printf "%s-preprocess-%s" (include "qatune.fullname" .) $live.data.spec) -}}
{{- $begun := or (dig "status" "active" 0 $first) (dig "status" "succeeded" 0 $first) -}}
{{- $another := "Start another run as a release of its own: helm install OTHER CHART" -}}
{{- if and $begun (ne $live.data.recipe (include "qatune.recipe.hash" .)) -}}
{{- fail (printf "\n\nrun %q has begun with another recipe, and a run does not change. %s\n" $run $another) -}}
{{- else if lt (int .Values.run.attempt) (int $live.data.attempt) -}}
{{- fail (printf "\n\nrun %q is at attempt %s: an earlier one does not come back; leave run.attempt at %s, or raise it\n" $run $live.data.attempt $live.data.attempt) -}}
{{- else if and (eq (int $live.data.attempt) (int .Values.run.attempt)) (ne $live.data.spec (include "qatune.hash" .)) -}}
{{- fail (printf "\n\nrun %q, attempt %s, has been started with other values, and a run does not change. %s; or go on with this one under other resources or images: --set run.attempt=%d\n" $run $live.data.attempt $another (add1 (int $live.data.attempt))) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* As long as its coordinator is active, a run is. */ -}}
{{- define "qatune.guard.others" -}}
{{- $run := include "qatune.run" . -}}
{{- range dig "items" list (lookup "batch/v1" "Job" .Release.Namespace "") -}}
{{- $labels := .metadata.labels | default dict -}}
{{- $its := dict "run" (get $labels "qatune/run") "release" (get $labels "app.kubernetes.io/instance") -}}
{{- if and (eq (get $labels "app.kubernetes.io/component") "coordinator") $its.run (dig "status" "active" 0 .) -}}
{{- if and (eq $its.release $.Release.Name) (ne $its.run $run) -}}
{{- fail (printf "\n\nrun %q of this release is at work, and another name would end it. Start another run as a release of its own: helm install OTHER CHART\n" $its.run) -}}
{{- else if and (ne $its.release $.Release.Name) (eq $its.run $run) -}}
{{- fail (printf "\n\nrelease %q is at work on run %q. Give this one another name with --set run.name=NAME, or wait\n" $its.release $run) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "qatune.guard.env" -}}
{{- $names := list -}}
{{- range .own }}{{ $names = append $names .name }}{{ end -}}
{{- $where := printf "stages.%s.env" .component -}}
{{- range (index .root.Values.stages .component).env -}}
{{- if has .name $names -}}
{{- fail (printf "\n\n%s: %s is set by the chart; leave it out\n" $where .name) -}}
{{- else if and .value (regexMatch "(_TOKEN|_SECRET|_PASSWORD|_API_KEY|_ACCESS_KEY|_ACCESS_KEY_ID)$" .name) -}}
{{- fail (printf "\n\n%s: %s looks like a secret, which values do not hold; take it from a Secret with valueFrom\n" $where .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
