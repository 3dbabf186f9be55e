{{- /*
What is refused before anything is made:
  qatune.guard          a change of a run that has begun, and what would end or meet another run
  qatune.guard.sources  data, models and adapters that no pod sees
  qatune.guard.env      a variable that is the chart's, given twice, or a secret:
                        dict "root" $ "component" "train" "own" (list)
*/ -}}

{{- define "qatune.guard" -}}
{{- $run := include "qatune.run" . -}}
{{- $begun := include "qatune.guard.jobs" . -}}
{{- $live := lookup "v1" "ConfigMap" .Release.Namespace (printf "%s-run" (include "qatune.fullname" .)) -}}
{{- $another := "Start another run as a release of its own: helm install OTHER CHART" -}}
{{- if and $live (eq $live.data.run $run) -}}
{{- if and $begun (ne $live.data.recipe (include "qatune.recipe.hash" .)) -}}
{{- fail (printf "\n\nrun %q has begun with another recipe, and a run does not change. %s\n" $run $another) -}}
{{- else if lt (int .Values.run.attempt) (int $live.data.attempt) -}}
{{- fail (printf "\n\nrun %q is at attempt %s: an earlier one does not come back; leave run.attempt at %s, or raise it\n" $run $live.data.attempt $live.data.attempt) -}}
{{- else if and (eq (int $live.data.attempt) (int .Values.run.attempt)) (ne $live.data.spec (include "qatune.hash" .)) -}}
{{- fail (printf "\n\nrun %q, attempt %s, has been started with other values, and a run does not change. %s; or go on with this one under other resources or images: --set run.attempt=%d\n" $run $live.data.attempt $another (add1 (int $live.data.attempt))) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Refuses what meets a run at work; tells whether a stage of this run has begun. */ -}}
{{- define "qatune.guard.jobs" -}}
{{- $run := include "qatune.run" . -}}
{{- range dig "items" list (lookup "batch/v1" "Job" .Release.Namespace "") -}}
{{- $labels := .metadata.labels | default dict -}}
{{- $its := dict "run" (get $labels "qatune/run") "release" (get $labels "app.kubernetes.io/instance") -}}
{{- $ours := eq $its.release $.Release.Name -}}
{{- if eq (get $labels "app.kubernetes.io/component") "coordinator" -}}
{{- /* A run is at work until its coordinator has ended, with or without a pod just now. */ -}}
{{- $over := false -}}
{{- range dig "status" "conditions" list . -}}
{{- if and (has .type (list "Complete" "Failed")) (eq .status "True") }}{{ $over = true }}{{ end -}}
{{- end -}}
{{- if and $its.run $ours (ne $its.run $run) (not $over) -}}
{{- fail (printf "\n\nrun %q of this release is at work, and another name would end it. Start another run as a release of its own: helm install OTHER CHART; or end this one first: helm uninstall %s\n" $its.run $its.release) -}}
{{- else if and (eq $its.run $run) (not $ours) (not $over) -}}
{{- fail (printf "\n\nrelease %q is at work on run %q. Give this one another name with --set run.name=NAME, or wait\n" $its.release $run) -}}
{{- end -}}
{{- else if and $ours (eq $its.run $run) (or (dig "status" "active" 0 .) (dig "status" "succeeded" 0 .)) -}}
begun
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Pods see buckets, the hub (by a revision), and absolute paths of their images. */ -}}
{{- define "qatune.guard.sources" -}}
{{- $recipe := .Values.recipe -}}
{{- if not $recipe.model.revision -}}
{{- include "qatune.guard.source" (dict "name" "model.source" "source" $recipe.model.source "revision" "model.revision") -}}
{{- end -}}
{{- if and (has "preprocess" (include "qatune.stages" . | fromJsonArray)) (not $recipe.data.revision) -}}
{{- include "qatune.guard.source" (dict "name" "data.source" "source" $recipe.data.source "revision" "data.revision") -}}
{{- end -}}
{{- with dig "generate" "input" "" $recipe -}}
{{- include "qatune.guard.source" (dict "name" "generate.input" "source" .) -}}
{{- end -}}
{{- $adapter := dig "generate" "adapter" "train" $recipe -}}
{{- if not (has $adapter (list "train" "none")) -}}
{{- include "qatune.guard.source" (dict "name" "generate.adapter" "source" $adapter) -}}
{{- end -}}
{{- end -}}

{{- define "qatune.guard.source" -}}
{{- if not (regexMatch "^(s3:/)?/" .source) -}}
{{- $hub := .revision | empty | ternary "" (printf "; a hub id needs recipe.%s beside it" .revision) -}}
{{- fail (printf "\n\nrecipe.%s: '%s' is a file of your machine, which pods do not see: put it into the bucket, and say --set recipe.%s=s3://BUCKET/%s%s\n" .name .source .name (base .source) $hub) -}}
{{- end -}}
{{- end -}}

{{- define "qatune.guard.env" -}}
{{- $names := list -}}
{{- range .own }}{{ $names = append $names .name }}{{ end -}}
{{- $where := printf "stages.%s.env" .component -}}
{{- range (index .root.Values.stages .component).env -}}
{{- /* DISABLE: such a variable is a switch, as HF_HUB_DISABLE_IMPLICIT_TOKEN, and holds no secret. */ -}}
{{- if has .name $names -}}
{{- fail (printf "\n\n%s: %s is set already, by the chart or above; leave it out\n" $where .name) -}}
{{- else if and .value .valueFrom -}}
{{- fail (printf "\n\n%s: %s has a value and a valueFrom; leave one out\n" $where .name) -}}
{{- else if and .value (not (contains "_DISABLE_" .name)) (regexMatch "(^|_)(TOKEN|SECRET|PASSWORD|API_KEY|ACCESS_KEY|ACCESS_KEY_ID)$|PASSWORD$" .name) -}}
{{- fail (printf "\n\n%s: %s looks like a secret, which values do not hold; take it from a Secret with valueFrom\n" $where .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- end -}}
