{{- /* The name of everything that belongs to the release. */ -}}
{{- define "orlop.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "orlop.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "orlop.name" .) "default") }}
{{- end -}}

{{- /* What a DaemonSet finds its pods by; it can never change. */ -}}
{{- define "orlop.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "orlop.labels" -}}
{{ include "orlop.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{- /* A registry as the key of a ConfigMap and the directory of its hosts.toml: the port is
       written with underscores, as hosts directories have it. */ -}}
{{- define "orlop.hostsDirectory" -}}
{{ regexReplaceAll ":([0-9]+)$" . "_${1}_" }}
{{- end -}}
