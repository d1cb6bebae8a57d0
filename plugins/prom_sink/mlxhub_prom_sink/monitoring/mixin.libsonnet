// The alerts, rules and dashboard beside this file as a mixin (monitoring.mixins.dev), for people who keep theirs in jsonnet:
//   (import 'mixin.libsonnet') + { _config+:: { mlxhubSelector: 'job="llm"' } }
{
  _config+:: {
    // Which series are those of hubs.
    mlxhubSelector: 'job="mlxhub"',
  },
  local adapted(text) = std.strReplace(text, 'job="mlxhub"', $._config.mlxhubSelector),
  prometheusAlerts+:: std.parseYaml(adapted(importstr 'alerts.yaml')),
  prometheusRules+:: std.parseYaml(importstr 'rules.yaml'),
  grafanaDashboards+:: { 'mlxhub.json': import 'dashboard.json' },
}
