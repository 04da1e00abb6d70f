// The gateway on Azure, in one resource group: a Flex Consumption function app and, unless they are elsewhere, its stores.
//   az deployment group create -g GROUP -f infra/azure/main.bicep -p @infra/azure/prod.parameters.json
// No secret is a parameter and no key of an account exists: what the app may do, its managed identity may do.
targetScope = 'resourceGroup'

@description('What every resource is named after; names that are global get a suffix of the resource group.')
@minLength(3)
@maxLength(10)
param name string = 'buspass'

@description('A region that has Flex Consumption: az functionapp list-flexconsumption-locations')
param location string = resourceGroup().location

@description('The entry of hosts: in buspass.yaml that this deployment is (BUSPASS_HOST).')
param hostName string = 'azure'

@description('Cosmos DB for the state: serverless, autoscale, or none where hosts: names a store elsewhere.')
@allowed([
  'serverless'
  'autoscale'
  'none'
])
param state string = 'serverless'

@description('RU/s that autoscale may go up to; it goes down to a tenth.')
@minValue(1000)
param maxThroughput int = 4000

@description('How far back the state can be restored to.')
@allowed([
  'Continuous7Days'
  'Continuous30Days'
])
param backup string = 'Continuous7Days'

@description('Whether blobs lie here; false where hosts: names a store elsewhere.')
param blobs bool = true

@description('Days in which a deleted or replaced blob can be had back, and in which what was erased is not gone yet.')
@minValue(1)
@maxValue(365)
param blobRetentionDays int = 7

@description('Application settings that are secrets of the vault, by name: {setting: …, secret: …}. Values are set with az keyvault secret set.')
param secrets array = [
  {
    setting: 'BUSPASS_DOMAIN_KEY'
    secret: 'BUSPASS-DOMAIN-KEY'
  }
]

@description('Further application settings that are no secrets: {name: …, value: …}. AWS_REGION for a DynamoDB, say.')
param settings array = []

@description('premium keeps the signing key in an HSM.')
@allowed([
  'standard'
  'premium'
])
param vaultSku string = 'standard'

@description('Whether stores and vault may be deleted by whoever may delete resources.')
param deletionProtection bool = true

@description('Instances at most; each takes perInstanceConcurrency calls at once.')
@minValue(1)
@maxValue(1000)
param maximumInstances int = 40

@description('Instances that are always there: no cold start.')
@minValue(0)
param alwaysReadyInstances int = 0

@allowed([
  512
  2048
  4096
])
param instanceMemoryMB int = 2048

@minValue(1)
@maxValue(1000)
param perInstanceConcurrency int = 50

@description('A subnet delegated to Microsoft.App/environments that the app goes out by; empty: none.')
param subnetId string = ''

@description('Disabled where stores and vault are reached by private endpoints of your own, through subnetId.')
@allowed([
  'Enabled'
  'Disabled'
])
param publicNetworkAccess string = 'Enabled'

@description('Days that logs are kept.')
@minValue(30)
@maxValue(730)
param logRetentionDays int = 90

param tags object = {}

var suffix = uniqueString(resourceGroup().id)
var appName = '${name}-${suffix}'
var vaultName = '${name}${take(suffix, 12)}'
var keyName = 'buspass'
var accountName = '${name}-${suffix}'
var databaseName = 'buspass'
var containerName = 'buspass'
var blobsAccountName = '${name}b${suffix}'
var blobsContainerName = 'buspass'
var hostAccountName = '${name}h${suffix}'
var packagesName = 'packages'

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: appName
  location: location
  tags: tags
}

module monitoring 'modules/monitoring.bicep' = {
  name: 'monitoring'
  params: {
    name: appName
    location: location
    tags: tags
    retentionDays: logRetentionDays
    principalId: identity.properties.principalId
  }
}

module vault 'modules/vault.bicep' = {
  name: 'vault'
  params: {
    name: vaultName
    location: location
    tags: tags
    sku: vaultSku
    keyName: keyName
    secrets: secrets
    principalId: identity.properties.principalId
    publicNetworkAccess: publicNetworkAccess
    deletionProtection: deletionProtection
  }
}

module cosmos 'modules/cosmos.bicep' = if (state != 'none') {
  name: 'cosmos'
  params: {
    name: accountName
    location: location
    tags: tags
    serverless: state == 'serverless'
    maxThroughput: maxThroughput
    backup: backup
    databaseName: databaseName
    containerName: containerName
    principalId: identity.properties.principalId
    publicNetworkAccess: publicNetworkAccess
    deletionProtection: deletionProtection
  }
}

module blobStore 'modules/blobs.bicep' = if (blobs) {
  name: 'blobs'
  params: {
    name: blobsAccountName
    location: location
    tags: tags
    containerName: blobsContainerName
    retentionDays: blobRetentionDays
    principalId: identity.properties.principalId
    publicNetworkAccess: publicNetworkAccess
    deletionProtection: deletionProtection
  }
}

module app 'modules/app.bicep' = {
  name: 'app'
  params: {
    name: appName
    location: location
    tags: tags
    identityName: identity.name
    hostAccountName: hostAccountName
    packagesName: packagesName
    hostName: hostName
    vaultName: vaultName
    secrets: secrets
    settings: settings
    insightsName: monitoring.outputs.insightsName
    maximumInstances: maximumInstances
    alwaysReadyInstances: alwaysReadyInstances
    instanceMemoryMB: instanceMemoryMB
    perInstanceConcurrency: perInstanceConcurrency
    subnetId: subnetId
  }
  dependsOn: [
    vault
  ]
}

@description('hosts.HOST.url of buspass.yaml, and its issuer unless a domain of your own stands before it.')
output url string = app.outputs.url

@description('hosts.HOST.signer')
output signer string = 'keyvault://${vaultName}/${keyName}'

@description('state, or hosts.HOST.state; empty where it is elsewhere.')
output state string = state == 'none' ? '' : 'cosmos://${accountName}/${databaseName}/${containerName}'

@description('blobs, or hosts.HOST.blobs; empty where they are elsewhere.')
output blobs string = blobs ? 'azblob://${blobsAccountName}/${blobsContainerName}' : ''

@description('For az functionapp deployment source config-zip.')
output functionApp string = appName

@description('Where the domain key and other secrets belong.')
output vault string = vaultName

@description('Who the app is, for roles in services of your own and as the issuer-side identity in others.')
output principalId string = identity.properties.principalId
