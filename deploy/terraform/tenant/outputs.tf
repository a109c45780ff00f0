output "document" {
  description = "The client as a YAML document."
  value       = yamlencode(local.document)
}
