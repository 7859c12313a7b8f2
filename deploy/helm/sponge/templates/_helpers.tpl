{{- define "sponge.name" -}}
{{- if contains .Chart.Name .Release.Name -}}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{- end -}}
{{- end -}}

{{- define "sponge.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (printf "%s-operator" (include "sponge.name" .)) }}
{{- end -}}

{{- define "sponge.selector" -}}
app.kubernetes.io/name: sponge-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sponge.labels" -}}
{{ include "sponge.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* What the operator needs in the namespaces that it watches. */ -}}
{{- define "sponge.rules" -}}
# Its own resource. The patch removes the finalizer of versions up to 0.1.0; the right on finalizers lets children name
# their owner.
- apiGroups: [serving.sponge.dev]
  resources: [spongeservices]
  verbs: [get, list, watch, patch]
- apiGroups: [serving.sponge.dev]
  resources: [spongeservices/status]
  verbs: [patch]
- apiGroups: [serving.sponge.dev]
  resources: [spongeservices/finalizers]
  verbs: [update]
# Children, which server-side apply creates and changes and the garbage collector removes.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch]
# Between a Deployment and its pods, to tell its pods from others.
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [list, watch]
# Pods are watched and resized. The patch marks the one that goes first when there is one too many.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch]
- apiGroups: [""]
  resources: [pods/resize]
  verbs: [patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
# To hold still beside other autoscalers of the same pods.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list, watch]
- apiGroups: [autoscaling.k8s.io]
  resources: [verticalpodautoscalers]
  verbs: [list, watch]
{{- end -}}

{{- /* The same for fronts. */ -}}
{{- define "sponge.frontRules" -}}
# Fronts, which are removed when a service has none any more. A RoleBinding to this one role may be made, and to no other.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [delete]
- apiGroups: [""]
  resources: [services]
  verbs: [delete]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [rolebindings]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [clusterroles]
  resourceNames: [{{ include "sponge.name" . }}-front]
  verbs: [bind]
{{- end -}}

{{- /* Labels of what runs beside the operator for a moment; its Service and policies do not select it. */ -}}
{{- define "sponge.errandLabels" -}}
app.kubernetes.io/name: sponge-errand
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- /* The spec of a pod that runs `sponge operator ARGUMENTS` once, in the operator's image and with its rights. */ -}}
{{- define "sponge.errand" -}}
{{- with .root.Values -}}
serviceAccountName: {{ include "sponge.serviceAccount" $.root }}
restartPolicy: Never
securityContext: {{- toYaml .podSecurityContext | nindent 2 }}
{{- with .imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: operator
    image: "{{ .image.repository }}:{{ .image.tag | default $.root.Chart.AppVersion }}"
    imagePullPolicy: {{ .image.pullPolicy }}
    {{- with .command }}
    command: {{- toYaml . | nindent 6 }}
    {{- end }}
    args: {{- toYaml (prepend $.arguments "operator") | nindent 6 }}
    {{- with .env }}
    env: {{- toYaml . | nindent 6 }}
    {{- end }}
    resources:
      requests: {cpu: 10m, memory: 96Mi}
      limits: {memory: 256Mi}
    securityContext: {{- toYaml .securityContext | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      {{- with .volumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  - {name: tmp, emptyDir: {sizeLimit: 16Mi}}
  {{- with .volumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
{{- end -}}
