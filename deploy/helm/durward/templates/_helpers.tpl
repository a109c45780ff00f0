{{- define "durward.name" -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "durward.selectorLabels" -}}
app.kubernetes.io/name: durward
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "durward.labels" -}}
{{ include "durward.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "durward.documents" -}}
{{- range $name, $spec := .Values.tenants }}
---
apiVersion: durward.dev/v1alpha1
kind: Tenant
metadata:
  name: {{ $name }}
spec:
  {{- toYaml $spec | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "durward.adminAddress" -}}
{{- ternary "127.0.0.1" "0.0.0.0" .Values.hostNetwork -}}
{{- end -}}

{{- define "durward.apiArguments" -}}
- --kube-secrets
- {{ .Values.kubernetes.secrets }}
- --status-rate
- {{ .Values.kubernetes.statusRate | quote }}
{{- if .Values.kubernetes.ingresses }}
- --kube-ingresses
{{- end }}
{{- end -}}

{{- define "durward.ownNamespace" -}}
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- end -}}

{{- define "durward.tokenMount" -}}
- name: token
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end -}}
